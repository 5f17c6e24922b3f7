//! Every bound of the wire in one place, with its reason. Durations in milliseconds, sizes in
//! bytes.

/// A text frame, both ways: control plane only, lists are paged (PROTOCOL.md 1).
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// A text frame on the master's socket, both ways: a device's frame and the addresses beside it
/// fit, and FILE_GRANT.
pub const MAX_MASTER_FRAME_BYTES: usize = 2 << 20;
/// Nesting of JSON; the frame's own object is 1.
pub const MAX_JSON_DEPTH: usize = 16;
/// Largest integer that survives JavaScript: 2^53 - 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
/// Counters of a session's HTTP requests that the relay tells used from unused. A session has
/// dozens of requests under way at most; this is a long way behind them, and 264 bytes.
pub const SESSION_COUNTERS: u64 = 2_048;
/// Entries of one ADD_FILES, REMOVE_FILE, FILE_LOOKUP or FEED_PAGE.
pub const MAX_FILES_A_MESSAGE: usize = 512;
/// Bytes of the entries of one such message, so that the frame around them still fits.
pub const MAX_LIST_BYTES: usize = 192 * 1024;
/// Ids of one MASTER_ROSTER page.
pub const MAX_ROSTER_IDS: usize = 4_096;
/// Files that one device may list.
pub const MAX_FILES_A_DEVICE: usize = 100_000;
/// Bytes that one device can make the hub remember: its files, those it withdrew, its links; texts
/// and what each entry takes beside them. 100,000 files with 150 bytes of path and type fit.
pub const MAX_REMEMBERED_BYTES_A_DEVICE: u64 = 64 << 20;
/// The same for all devices together: four that list as much as they may, or 90 with 5,000 files
/// each.
pub const MAX_REMEMBERED_BYTES: u64 = 256 << 20;
/// Part of it that a device can use only as long as less than [`SMALL_DEVICE_BYTES`] are remembered
/// for it: a few that fill the list keep nobody else from sharing.
pub const RESERVED_FOR_SMALL_DEVICES: u64 = 32 << 20;
/// A device below this may use the reserved part: 1 MiB is about 1,600 files with 150 bytes of
/// path.
pub const SMALL_DEVICE_BYTES: u64 = 1 << 20;
/// Removals that are remembered, about 20 MB: one device that takes 100,000 files away at once is
/// still a delta. A pull from before the oldest is a snapshot.
pub const MAX_REMOVALS: usize = 131_072;
/// Devices that the hub knows, let in or refused, beyond which an open door asks again. Each costs
/// a key, a name and a row of `roster.json`, which is written whole. The host can still let devices
/// in.
pub const MAX_MEMBERS_UNASKED: usize = 10_000;
/// Invitations that are out at once: a class or a party, and few enough that a person still knows
/// them.
pub const MAX_INVITATIONS: usize = 256;
/// How long an invitation can be used: whoever finds it comes in with it.
pub const MAX_INVITATION_MS: u64 = 30 * 24 * 3_600_000;
/// How long an approval that has an end may last: a year is more than anybody means by "for a
/// while".
pub const MAX_STAY_MS: u64 = 366 * 24 * 3_600_000;
/// Largest file: group_log 24 still gives at most 65,536 groups.
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// A device's name, UTF-8.
pub const MAX_NAME_BYTES: usize = 255;
/// Platform and media type texts.
pub const MAX_LABEL_BYTES: usize = 255;
/// A path on the wire, UTF-8: Linux takes no longer ones.
pub const MAX_PATH_BYTES: usize = 4_096;
/// One segment of a path: common file systems take no longer names.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// Segments of a path, the file's name included.
pub const MAX_SEGMENTS: usize = 64;
/// Characters of a cursor, which its maker reads back and nobody else understands.
pub const MAX_CURSOR_CHARS: usize = 256;
/// Pieces of one run.
pub const MAX_PIECES: usize = 256;
/// Bytes of one run, unless a single group is larger.
pub const MAX_RUN_BYTES: u64 = 8 << 20;
/// Files that one link names; a folder's number is not bounded by this.
pub const MAX_LINK_FILES: usize = 10_000;
/// Requests that add files to one link: it is written whole each time. 20 full ones bring all that
/// it may name.
pub const MAX_LINK_PARTS: u32 = 64;
/// How long a link with an end may live: a term of school; a link is no archive.
pub const MAX_LINK_VALID_MS: u64 = 180 * 24 * 3_600_000;
/// Uses that a link may be given.
pub const MAX_LINK_USES: u32 = 1_000_000;
/// Members of one LINK_MEMBERS, and bytes of them: a response holds two such pages.
pub const MAX_LINK_PAGE: usize = 256;
/// Bytes of one page of members; see [`MAX_LINK_PAGE`].
pub const MAX_LINK_PAGE_BYTES: usize = 96 * 1024;
/// Bytes that one response may hold of an archive's members, their checksums included.
pub const MAX_ARCHIVE_WINDOW_BYTES: usize = 1 << 20;
/// Layouts of archives that the master keeps, in all and one: rebuilt when they are asked for
/// again.
pub const MAX_LAYOUT_BYTES: usize = 64 << 20;
/// Bytes of one layout; see [`MAX_LAYOUT_BYTES`].
pub const MAX_ONE_LAYOUT_BYTES: usize = 32 << 20;
/// Archives of one maker that wait to be laid out for those who open them: of the 64 that the relay
/// asks for at once others have most.
pub const MAX_LAYOUTS_A_MAKER: usize = 16;
/// Look-ups of links at the master at once, of links that the relay does not know; further look-ups
/// wait for their turn. Links that the relay knows and has to ask about again have as many of their
/// own.
pub const MAX_LINK_LOOKUPS: usize = 64;
/// Calls about links that wait in the relay, and those of them about links that it does not know: a
/// flood of these leaves room for everybody who reads. Beyond, `BUSY`.
pub const MAX_LINK_CALLS: usize = 4_096;
/// Calls about links that the relay does not know; see [`MAX_LINK_CALLS`].
pub const MAX_UNKNOWN_LINK_CALLS: usize = MAX_LINK_CALLS / 2;
/// Links that the relay knows, in bytes; the longest unused goes first.
pub const MAX_KNOWN_LINK_BYTES: usize = 4 << 20;
/// Links that the master does not know, remembered so that nobody makes the relay ask for them
/// again and again; the oldest is forgotten first. A link that is made is forgotten here at once.
pub const MAX_MISSING_LINKS: usize = 4_096;
/// Milliseconds for which a link that is not there is remembered as missing.
pub const MISSING_LINK_MS: u64 = 10_000;

/// Sessions of one device at once: tabs and commands.
pub const MAX_SESSIONS_A_DEVICE: usize = 8;
/// Knocks of one address, and in all: a person can look at no more.
pub const MAX_PENDING_AN_ADDRESS: usize = 16;
/// Knocks that wait at once, of all addresses.
pub const MAX_PENDING: usize = 64;
/// A request's head: browsers send less than 4 KiB.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The first frame of a socket, and all until it is registered: a registration is less than 4 KiB
/// with the longest names.
pub const MAX_FIRST_FRAME_BYTES: usize = 6 * 1024;
/// All bytes of a socket until it is registered: the first frame, a few pings beside it, and what
/// one read brings behind it.
pub const MAX_UNREGISTERED_BYTES: usize = 16 * 1024;
/// Connections of one address, and of one IPv6 network of 64 bits, whose last request anybody may
/// make: twenty browsers load the page at once.
pub const MAX_UNKNOWN_AN_ADDRESS: usize = 128;
/// The same bound for one IPv6 network of 64 bits, which one machine can have whole.
pub const MAX_UNKNOWN_A_NET: usize = 512;
/// Connections of one device: eight sessions, and what their pages open beside.
pub const MAX_CONNECTIONS_A_DEVICE: usize = 64;
/// Connections of one address, and of one IPv6 network of 64 bits, that read links; they may pause
/// for a day. A network has half of all places for links at most.
pub const MAX_LINK_CONNECTIONS_AN_ADDRESS: usize = 128;
/// The same bound for one IPv6 network of 64 bits.
pub const MAX_LINK_CONNECTIONS_A_NET: usize = 512;
/// The same of all addresses, or a quarter of what the relay may have, if that is less. Each keeps
/// one small frame while its reader stands still: 32 MiB together, and what the large frames are.
pub const MAX_LINK_CONNECTIONS: usize = 1_024;
/// Bytes outside of the relay's budget for a body whose reader takes nothing. With the plaintext
/// that TLS keeps below it, they are less than 64 KiB.
pub const SMALL_FRAME_BYTES: usize = 32 << 10;
/// Bytes of plaintext that TLS keeps for such a body.
pub const TLS_BUFFER_BYTES: usize = 16 << 10;
/// Frames of 256 KiB that quick readers may have on their way at once: 8 MiB, if all of them stop.
/// One address, or one IPv6 network of 64 bits, has a quarter of them; without one a reader is
/// served in small frames.
pub const MAX_LARGE_FRAMES: usize = 32;
/// The share of one address, or of one IPv6 network of 64 bits.
pub const MAX_LARGE_FRAMES_A_NET: usize = 8;
/// An answer of which the other side takes nothing for this long ends, bodies of links and tickets
/// apart.
pub const UNREAD_ANSWER_MS: u64 = 30_000;
/// Messages of one device, all its sessions together: sustained a second, and at once.
pub const MESSAGES_A_SECOND: u32 = 200;
/// Messages of one device at once: two seconds' worth.
pub const MESSAGE_BURST: u32 = 400;
/// Outbox of one session; beyond, its queued changes become one FEED_DIRTY.
pub const OUTBOX_MESSAGES: usize = 512;
/// Bytes of the same outbox: eight full frames.
pub const OUTBOX_BYTES: usize = 2 << 20;

/// A requester shows its request as failed after this; the answer still counts later.
pub const REQUEST_TIMEOUT_MS: u64 = 10_000;
/// A wrong proof of the master's secret is answered after this long. The secret has 256 bits; the
/// wait keeps a wrong configuration that tries again and again, and the lines that it writes to the
/// log, from costing anything.
pub const WRONG_SECRET_DELAY_MS: u64 = 500;
/// First frame of a socket after CHALLENGE.
pub const REGISTER_TIMEOUT_MS: u64 = 5_000;
/// The relay pings after this long without a frame, a device after a second more. With
/// [`PONG_TIMEOUT_MS`] both notice a half-open line in 15 s, and mostly one ping serves both. The
/// life signs of 5,000 idle devices take 1 % of a processor of the relay (`tests/deep/storm`).
pub const PING_MS: u64 = 4_000;
/// Without any frame after a ping the session is over.
pub const PONG_TIMEOUT_MS: u64 = 10_000;
/// A page pings after this long without a frame. Browsers show it no WebSocket pings, and its clock
/// ticks once a second. So it starts earlier than the others to notice a half-open line in 15 s.
pub const PING_OF_A_PAGE_MS: u64 = 3_000;
/// Try n to connect again waits random(0 … min([`RECONNECT_CAP_MS`], this · 2^n)).
pub const RECONNECT_BASE_MS: u64 = 250;
/// The longest wait between two tries to connect: a hub that comes back is found within a breath.
pub const RECONNECT_CAP_MS: u64 = 15_000;
/// A device asks again after this long when a FEED_PULL failed without a time to wait.
pub const PULL_RETRY_MS: u64 = 1_000;
/// Changes that a device keeps during a pull; beyond, it drops them and pulls once more.
pub const MAX_KEPT_CHANGES: usize = 4_096;
/// From away to withdrawn.
pub const GRACE_MS: u64 = 60_000;
/// A PUT must start within this.
pub const PUT_TICKET_MS: u64 = 10_000;
/// A GET must start within this; a full slot without readers is cache for as long.
pub const GET_TICKET_MS: u64 = 60_000;
/// How long a used ticket is remembered.
pub const USED_TICKET_MS: u64 = 60_000;
/// Unstarted PUTs of one holder, and its runs asked or filling.
pub const MAX_UNSTARTED_PUTS: usize = 4;
/// Runs and bytes that may wait for budget, per asker, and how long.
pub const MAX_WAITING_RUNS: usize = 64;
/// Bytes of one asker that may wait: eight full runs.
pub const MAX_WAITING_BYTES: u64 = 64 << 20;
/// Milliseconds after which a waiting run fails with `BUSY`.
pub const WAITING_TIMEOUT_MS: u64 = 30_000;
/// Look-ups at the master that one asker may wait for, all its requests together; beyond, `BUSY`.
/// An answer takes milliseconds, and the window of a peer is eight requests a transfer.
pub const MAX_LOOKUPS_AN_ASKER: usize = 256;
/// Large files that one session is known to be on its way through at once: a device fetches three
/// of a transfer at a time.
pub const MAX_READ_AT_ONCE: usize = 64;
/// Default byte budget of the relay's slots.
pub const DEFAULT_BUDGET_BYTES: u64 = 32 << 20;
/// A reader that takes nothing for this long stands still.
pub const STANDING_STILL_MS: u64 = 2_000;
/// Bodies slower than this many bytes a second over the window end.
pub const MIN_BODY_RATE: u64 = 8 * 1024;
/// Milliseconds over which the rate of a body is measured.
pub const MIN_BODY_WINDOW_MS: u64 = 20_000;
/// How long the relay serves from a grant while the master is away, and keeps an unused one.
pub const GRANT_MS: u64 = 600_000;
/// How long the relay keeps the group hashes of a file after its owner and all its askers have
/// gone. A page that is reloaded, or a line that drops, is back by then. All together take a
/// quarter of the byte budget beside it.
pub const GROUP_HASHES_MS: u64 = 60_000;
/// Wrong bodies of one holder within the window, and how long it is not asked afterwards.
pub const MAX_BAD_BODIES: usize = 3;
/// Milliseconds in which wrong bodies are counted together.
pub const BAD_BODIES_WINDOW_MS: u64 = 600_000;
/// Milliseconds for which such a holder is not asked.
pub const BAD_BODIES_BAN_MS: u64 = 3_600_000;
/// Transfers of one session whose progress the relay remembers: a quarter of these run at once in
/// the busiest page.
pub const MAX_TRANSFERS_A_SESSION: usize = 64;
/// Files that are remembered to have changed; one more costs the one that was removed first its
/// reason.
pub const MAX_CHANGED_FILES: usize = 4_096;
/// TRANSFER_PROGRESS at most every so often: four a second.
pub const PROGRESS_INTERVAL_MS: u64 = 250;
/// A link dies after this long without use; an absent owner is waited for as long.
pub const LINK_UNUSED_MS: u64 = 24 * 3_600_000;
/// LINK_USED at most every so often.
pub const LINK_USED_INTERVAL_MS: u64 = 3_600_000;
/// A link that is not known waits this long for a master that is away.
pub const LINK_LOOKUP_WAIT_MS: u64 = 30_000;
/// Wrong codes that a knock survives at the host.
pub const CODE_TRIES: u32 = 3;
/// Prompts that are opened within the window: of one address (IPv4, or one IPv6 address), of one
/// network (a /64) and in all. Each is a guess of six digits for whoever is behind it, and a person
/// looks at no more.
pub const PROMPTS_WINDOW_MS: u64 = 600_000;
/// Prompts of one address in a window.
pub const PROMPTS_AN_ADDRESS: usize = 16;
/// Prompts of one network in a window.
pub const PROMPTS_A_NETWORK: usize = 64;
/// Prompts in all in a window.
pub const PROMPTS: usize = 64;
/// Beyond the sum one prompt is opened every so often, so that nobody waits for ever.
pub const PROMPT_TURN_MS: u64 = 10_000;
/// How much more and how long, when the host allows more: a class behind one address is let in by
/// it.
pub const ALLOW_MORE_FACTOR: usize = 4;
/// Milliseconds for which more prompts are allowed.
pub const ALLOW_MORE_MS: u64 = 600_000;
/// Challenges that wait for their reveal, of one address and in all: an honest answer is a round
/// trip away.
pub const CHALLENGES_AN_ADDRESS: usize = 4;
/// Challenges of all addresses together.
pub const CHALLENGES_AT_ONCE: usize = 8;
/// A device answers a challenge within this, and a master a reveal.
pub const REVEAL_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds in which the master opens its commitment; then the reveal counts as unopened.
pub const OPENING_TIMEOUT_MS: u64 = 10_000;
/// A prompt whose device left stays in sight for this long: an abort is seen by the person.
pub const LEFT_PROMPT_MS: u64 = 10_000;
/// Reveals that nobody opened, and reveals in all, that a device makes before a person says "try
/// again". A false hub that looks for digits has as many tries.
pub const MAX_UNOPENED_REVEALS: u32 = 3;
/// Reveals in all before a person is asked.
pub const MAX_REVEALS: u32 = 32;
/// Wrong proofs of invitations within the window that are noted, of one address, one key and in
/// all.
pub const WRONG_PROOFS_AN_ADDRESS: usize = 16;
/// Wrong proofs of one key in a window.
pub const WRONG_PROOFS_A_KEY: usize = 3;
/// Wrong proofs of all keys and addresses in a window.
pub const WRONG_PROOFS: usize = 64;
/// A code is good for this long, then APPROVAL_RESTART.
pub const CODE_LIFETIME_MS: u64 = 600_000;
