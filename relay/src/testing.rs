//! Pure functions that meet hostile input first, for tests/deep, which feeds them without a hub.
//! Built only with the feature `testing`.

use http::HeaderMap;
use lanyard_hub::layout::{Layout, PlacedMember};
use lanyard_protocol::archive::Extent;
use lanyard_protocol::message::LinkMember;

use crate::links::{names, zip};
use crate::middleware::host_guard;

/// The `Content-Disposition` of a file of this name.
pub fn disposition(name: &str) -> http::HeaderValue {
    names::disposition(name)
}

/// The name that a request was sent to and its canonical authority; `None` if it is refused.
pub fn authority(
    headers: &HeaderMap,
    target: Option<&str>,
    default_port: u16,
) -> Option<(String, String)> {
    let (name, authority) = host_guard::authority(headers, target, default_port).ok()?;
    Some((name, authority.0))
}

/// The archive of a layout; the members hold zeros.
pub fn archive(layout: &Layout) -> Vec<u8> {
    let member = |placed: &PlacedMember| LinkMember {
        name: placed.name.clone(),
        size: placed.size,
        modified_ms: placed.modified_ms,
        kind: placed.kind,
        file: None,
    };
    let members: Vec<LinkMember> = layout.members.iter().map(member).collect();
    let mut out = bytes::BytesMut::new();
    let mut directory = bytes::BytesMut::new();
    let mut extent = Extent::default();
    for member in &members {
        let offset = extent.add(&zip::shape(member));
        out.extend_from_slice(&zip::local_header(member, offset));
        let zeros = vec![0; member.size as usize];
        out.extend_from_slice(&zeros);
        let crc = crc32fast::hash(&zeros);
        out.extend_from_slice(&zip::descriptor(member, crc));
        zip::central_header(&mut directory, member, offset, crc);
    }
    out.extend_from_slice(&directory);
    out.extend_from_slice(&zip::end(&extent));
    out.to_vec()
}
