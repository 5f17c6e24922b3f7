//! Links: making, listing and dropping them, and how an archive behind one is laid out in pages
//! (PROTOCOL.md 7).

use serde::{Deserialize, Serialize};

use super::*;
use crate::file::{EntryKind, FileRef};

wire! {
    /// All that an owner shares below a path, at the time when it is read; "" is everything.
    pub struct LinkFolder {
        /// The owner.
        pub public_id: DeviceId,
        /// Relative and `/`-separated, without a slash at the end.
        pub path: String,
    }

    /// Makes a link of files or of a folder, or adds files to the maker's link of that hash. The
    /// key of the link stays with its maker.
    pub struct LinkRequest {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
        /// Binds the key to its maker.
        pub binding: LinkBinding,
        /// At most 512 a message; empty for a folder.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<Vec<FileRef>>", optional))]
        pub files: Vec<FileRef>,
        /// The folder; absent for files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub folder: Option<LinkFolder>,
        /// The archive's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub name: Option<String>,
        /// Ends the link after this time, used or not; absent: it ends when it was not used for a
        /// day.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub valid_ms: Option<u64>,
        /// How often it may be used; absent: as often as one likes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub uses: Option<u32>,
    }

    /// A link as its maker and the host see it.
    pub struct LinkListed {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
        /// The maker.
        pub public_id: DeviceId,
        /// The name of its download.
        pub name: String,
        /// How many files it names; 0 for a folder.
        pub files: u32,
        /// The folder; absent for files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub folder: Option<LinkFolder>,
        /// Milliseconds since 1970, by the host's clock, at which it was made.
        pub made_ms: u64,
        /// Milliseconds since 1970, by the host's clock, at which it ends if nobody uses it.
        pub expires_ms: u64,
        /// The end was chosen and use does not move it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub ends: bool,
        /// Uses that remain; absent when they are not counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub uses_left: Option<u32>,
    }

    /// A link was made, or is another one now: to all sessions of its maker, and to the host.
    pub struct LinkMade {
        /// The link as it is now.
        pub link: LinkListed,
    }

    /// Ends a link of the sender; the host's console may end anybody's.
    pub struct LinkDrop {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
    }

    /// A link is over: dropped by its maker or the host, or its end came. Whoever reads through it
    /// is cut.
    pub struct LinkDropped {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
        /// The maker.
        pub public_id: DeviceId,
    }

    /// Asks for one's links, the newest first; the host's console for everybody's.
    pub struct LinksPull {
        /// Opaque place to go on from, at most 256 characters; absent on a first request and on a
        /// last page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub cursor: Option<String>,
    }

    /// Answers LINKS_PULL.
    pub struct LinksPage {
        /// The newest first.
        pub links: Vec<LinkListed>,
        /// Opaque place to go on from, at most 256 characters; absent on a first request and on a
        /// last page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub cursor: Option<String>,
        /// True on the last page.
        pub last: bool,
    }

    /// Asks what is behind this link.
    pub struct LinkLookup {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
        /// Counts one use.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub begins: bool,
    }

    /// Answers LINK_LOOKUP: one file, or an archive; neither when what it was made of is gone.
    pub struct LinkGrant {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
        /// The maker.
        pub public_id: DeviceId,
        /// Must bind the key of the address to the maker.
        pub binding: LinkBinding,
        /// How long it still lives, if nobody uses it.
        pub lives_ms: u64,
        /// Each use has to be asked for.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub limited: bool,
        /// The one file that the link opens.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::file::entry")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file: Option<FileEntry>,
        /// The archive that the link opens.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub archive: Option<LinkArchive>,
    }

    /// An archive as it is now; its members are asked for in pages.
    pub struct LinkArchive {
        /// Names the archive's exact sequence of members and lengths.
        pub layout: LayoutId,
        /// The name of the download.
        pub name: String,
        /// Number of members, folders included.
        pub members: u32,
        /// Bytes of the whole archive.
        pub length: u64,
    }

    /// Asks for members of an archive, from number `first` on.
    pub struct LinkPage {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
        /// Names the archive's exact sequence of members and lengths.
        pub layout: LayoutId,
        /// Number of the first member asked for, from 0.
        pub first: u32,
        /// Names only: for the directory at the archive's end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub bare: bool,
    }

    /// Answers LINK_PAGE with at least one member; STALE_REQUEST when the archive would be another
    /// one now.
    pub struct LinkMembers {
        /// Consecutive, from the number that was asked for; at most 256 and 96 KiB.
        pub members: Vec<LinkMember>,
    }

    /// A file or an empty folder in an archive.
    pub struct LinkMember {
        /// A folder's ends in a slash.
        pub name: String,
        /// Exact number of its bytes.
        pub size: u64,
        /// Milliseconds since 1970, by its owner's clock.
        pub modified_ms: u64,
        /// File or folder.
        #[serde(default, skip_serializing_if = "EntryKind::is_file")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<EntryKind>", optional))]
        pub kind: EntryKind,
        /// Absent in a bare page, and when the file is gone.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::file::entry")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file: Option<FileEntry>,
    }

    /// Moves the end of a link that has no fixed one; sent once an hour at most.
    pub struct LinkUsed {
        /// BLAKE3 hash of the link's key; the key itself never crosses a socket.
        pub link_hash: LinkHash,
    }
}
