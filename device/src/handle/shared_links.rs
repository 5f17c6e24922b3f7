//! Links from this device: the key is drawn here and never told; the hub knows its hash.

use std::io;

use lanyard_protocol::http::link_path;
use lanyard_protocol::limits::MAX_FILES_A_MESSAGE;
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::message::{LinkDrop, LinkFolder, LinkListed, LinkRequest, LinksPull};
use lanyard_protocol::{
    DeviceToRelay, FailureCode, FileRef, Link, LinkHash, LinkSeed, RelayToDevice,
};

use crate::error::DeviceError;
use crate::handle::{DeviceHandle, DriverCommand};

/// The contents of a wanted link.
#[derive(Debug, Clone)]
pub enum LinkContents {
    /// These versions.
    Files(Vec<FileRef>),
    /// Whatever is shared there when somebody reads it.
    Folder(LinkFolder),
}

/// A link to be made.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    pub linked: LinkContents,
    /// The archive's name.
    pub name: Option<String>,
    /// Ends it after this time.
    pub valid_ms: Option<u64>,
    /// How often it may be used.
    pub uses: Option<u32>,
}

impl LinkOptions {
    pub fn files(files: Vec<FileRef>) -> Self {
        Self { linked: LinkContents::Files(files), name: None, valid_ms: None, uses: None }
    }

    /// The requests that make it: a long list of files takes several.
    fn requests(self, drawn: &DrawnLink) -> Vec<LinkRequest> {
        let Self { linked, name, valid_ms, uses } = self;
        let first = LinkRequest {
            link_hash: drawn.hash,
            binding: drawn.binding,
            files: Vec::new(),
            folder: None,
            name,
            valid_ms,
            uses,
        };
        let files = match linked {
            LinkContents::Folder(folder) => {
                return vec![LinkRequest { folder: Some(folder), ..first }];
            }
            LinkContents::Files(files) => files,
        };
        files
            .chunks(MAX_FILES_A_MESSAGE)
            .map(|files| LinkRequest { files: files.to_vec(), ..first.clone() })
            .collect()
    }
}

/// A link that was made, with its key.
#[derive(Debug, Clone)]
pub struct MadeLink {
    pub link: Link,
    /// A path on the hub.
    pub url: String,
    pub listed: LinkListed,
}

impl DeviceHandle {
    /// Sends a request and waits for its answer.
    async fn request(&self, message: DeviceToRelay) -> Result<RelayToDevice, DeviceError> {
        let answer =
            self.ask(|reply| DriverCommand::Request { message: Box::new(message), reply }).await?;
        answer.map(|answer| *answer).map_err(|failed| {
            if matches!(failed.code, FailureCode::ServerNotReady | FailureCode::TimedOut) {
                return DeviceError::NotConnected;
            }
            DeviceError::Refused { code: failed.code, message: failed.message }
        })
    }

    /// Makes an address under which anybody who knows it may fetch what it opens.
    pub async fn link(&self, wish: LinkOptions) -> Result<MadeLink, DeviceError> {
        let mut seed = LinkSeed([0; 32]);
        getrandom::fill(&mut seed.0).map_err(io::Error::other)?;
        let drawn = DrawnLink::new(&seed, self.public_id());
        let link = drawn.link;
        let mut listed = None;
        for request in wish.requests(&drawn) {
            let answer = self.request(DeviceToRelay::LinkRequest(request)).await?;
            let RelayToDevice::LinkMade(made) = answer else {
                return Err(DeviceError::NotConnected);
            };
            listed = Some(made.link);
        }
        let listed =
            listed.ok_or_else(|| DeviceError::Local("there is nothing to link to".into()))?;
        Ok(MadeLink { link, url: link_path(&link, &listed.name), listed })
    }

    /// This device's links, the newest first.
    pub async fn links(&self) -> Result<Vec<LinkListed>, DeviceError> {
        let mut links = Vec::new();
        let mut cursor = None;
        loop {
            let answer = self.request(DeviceToRelay::LinksPull(LinksPull { cursor })).await?;
            let RelayToDevice::LinksPage(page) = answer else {
                return Err(DeviceError::NotConnected);
            };
            links.extend(page.links);
            cursor = page.cursor;
            if page.last || cursor.is_none() {
                return Ok(links);
            }
        }
    }

    /// Ends a link of this device; whoever reads through it is cut.
    pub async fn drop_link(&self, link_hash: LinkHash) -> Result<(), DeviceError> {
        self.request(DeviceToRelay::LinkDrop(LinkDrop { link_hash })).await.map(drop)
    }
}
