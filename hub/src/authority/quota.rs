//! Bytes that devices make the hub remember, counted by device and in all.
//!
//! A part of the authority that keeps something for a device holds a [`Ledger`] and changes it with
//! each entry. The sum of all ledgers has one bound a device and one for everybody
//! ([`Authority::room_for`]); whatever would go beyond is refused.

use std::collections::BTreeMap;

use lanyard_protocol::limits::{
    MAX_REMEMBERED_BYTES, MAX_REMEMBERED_BYTES_A_DEVICE, RESERVED_FOR_SMALL_DEVICES,
    SMALL_DEVICE_BYTES,
};
use lanyard_protocol::{DeviceId, FileEntry};

use super::Authority;

/// An entry of the list beside its texts: its record, its places in five indexes, and what an
/// allocator adds (measured: 100,000 files with 80 bytes of text each grow the process by 59.6 MB).
const FILE_OVERHEAD: u64 = 512;

/// Bytes by device, and their sum.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    devices: BTreeMap<DeviceId, u64>,
    total: u64,
}

impl Ledger {
    pub(super) fn add(&mut self, device: DeviceId, bytes: u64) {
        *self.devices.entry(device).or_default() += bytes;
        self.total += bytes;
    }

    /// Takes back what was added before.
    pub(super) fn subtract(&mut self, device: DeviceId, bytes: u64) {
        let Some(held) = self.devices.get_mut(&device) else { return };
        let bytes = bytes.min(*held);
        *held -= bytes;
        self.total -= bytes;
        if *held == 0 {
            self.devices.remove(&device);
        }
    }

    pub(super) fn of(&self, device: DeviceId) -> u64 {
        self.devices.get(&device).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.devices.keys().copied()
    }
}

/// Memory of a listed or withdrawn file.
pub(super) fn file_bytes(entry: &FileEntry) -> u64 {
    FILE_OVERHEAD + (entry.path.len() + entry.media_type.len()) as u64
}

/// Bytes that the hub remembers for devices, and how many it may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Bytes remembered for all devices.
    pub bytes: u64,
    /// Bytes that may be remembered for all devices.
    pub limit: u64,
    /// Bytes that may be remembered for one device.
    pub device_limit: u64,
    /// Only devices for which something is remembered.
    pub devices: BTreeMap<DeviceId, u64>,
}

impl Authority {
    /// Bytes that `device` may still make the hub remember. The last of the room is for devices
    /// that hold little.
    pub(super) fn room_for(&self, device: DeviceId) -> u64 {
        let held = self.remembered_for(device);
        let total = self.catalogue.bytes().total() + self.links.bytes().total();
        let open_to_it = if held < SMALL_DEVICE_BYTES {
            MAX_REMEMBERED_BYTES
        } else {
            MAX_REMEMBERED_BYTES - RESERVED_FOR_SMALL_DEVICES
        };
        MAX_REMEMBERED_BYTES_A_DEVICE.saturating_sub(held).min(open_to_it.saturating_sub(total))
    }

    /// Tells a device why it gets no more room.
    pub(super) fn words_when_full(&self, device: DeviceId) -> String {
        if self.remembered_for(device) >= MAX_REMEMBERED_BYTES_A_DEVICE / 2 {
            let most = MAX_REMEMBERED_BYTES_A_DEVICE >> 20;
            format!(
                "this device's files and links take all of the {most} MiB that the hub keeps for one device"
            )
        } else {
            let most = MAX_REMEMBERED_BYTES >> 20;
            format!("the hub's list is full: it keeps {most} MiB for all devices together")
        }
    }

    fn remembered_for(&self, device: DeviceId) -> u64 {
        self.catalogue.bytes().of(device) + self.links.bytes().of(device)
    }

    /// Counts what the hub remembers, by device.
    pub fn remembered(&self) -> Remembered {
        let devices = self.catalogue.bytes().devices().chain(self.links.bytes().devices());
        Remembered {
            bytes: self.catalogue.bytes().total() + self.links.bytes().total(),
            limit: MAX_REMEMBERED_BYTES,
            device_limit: MAX_REMEMBERED_BYTES_A_DEVICE,
            devices: devices.map(|device| (device, self.remembered_for(device))).collect(),
        }
    }
}
