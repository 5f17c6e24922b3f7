//! Verbs that make a test read like a story.

use lanyard_hub::authority::{OperatorCommand, Verdict};
use lanyard_protocol::{DeviceId, FileEntry, FileId, FileRef, TransferId};

use crate::sim::actors::device::DeviceIndex;
use crate::sim::simulation::{Simulation, SimulationConfig};

/// Long enough for everything that waits: graces, tickets, caches, retries, sweeps.
const REST_MS: u64 = 240_000;

impl Simulation {
    pub fn seeded(seed: u64) -> Self {
        let mut world = Self::new(seed, SimulationConfig::default());
        world.run_for(100);
        world
    }

    /// Starts a device and lets it stand at the door with its digits.
    pub fn knocks(&mut self, key: usize, name: &str) -> DeviceIndex {
        let index = self.add_device(key, name);
        self.start_device(index);
        self.run_for(1_000);
        index
    }

    /// A device that is in.
    pub fn joins(&mut self, key: usize, name: &str) -> DeviceIndex {
        let index = self.knocks(key, name);
        self.let_in(index);
        assert!(self.device(index).is_approved(), "{name} is in: {:?}", self.device(index).phase);
        index
    }

    /// The host types the digits that the device shows.
    pub fn let_in(&mut self, index: DeviceIndex) {
        let device = self.device(index);
        let code = device.code().expect("the device shows its digits").to_owned();
        self.approve(device.public_id, &code);
        self.run_for(1_000);
    }

    pub fn refuse(&mut self, public_id: DeviceId) {
        self.operator(OperatorCommand::Refuse { public_id }, "refuse");
        self.run_for(1_000);
    }

    pub fn forget(&mut self, public_id: DeviceId) {
        self.operator(OperatorCommand::Forget { public_id }, "forget");
        self.run_for(1_000);
    }

    pub fn verdict(&self, index: DeviceIndex) -> Option<Verdict> {
        self.disk.verdict(self.device(index).public_id)
    }

    /// Shares a file and waits until everybody can see it.
    pub fn shares(&mut self, index: DeviceIndex, path: &str, size: u64) -> FileRef {
        let file_id = self.share(index, path, size, false);
        self.run_for(1_000);
        FileRef { public_id: self.device(index).public_id, file_id }
    }

    /// The entry as this device sees it.
    pub fn sees(&self, index: DeviceIndex, file: FileRef) -> Option<&FileEntry> {
        self.device(index).peer.as_ref()?.catalogue().files.get(&file)
    }

    /// Starts a download of a listed file.
    pub fn fetches(&mut self, index: DeviceIndex, file: FileRef) -> TransferId {
        let entry = self.sees(index, file).expect("it is listed").clone();
        self.download(index, file.public_id, &[entry], false)
    }

    pub fn has(&self, index: DeviceIndex, transfer: TransferId, file_id: FileId) -> bool {
        self.device(index)
            .downloads
            .get(&transfer)
            .is_some_and(|download| download.done.contains(&file_id))
    }

    /// Hours of timers in microseconds, until nothing is left to happen; then everything must be
    /// true.
    pub fn settle(&mut self) {
        self.run_for(REST_MS);
        self.sweep_tickets();
        let model = std::mem::take(&mut self.model);
        model.at_rest(self);
        self.model = model;
    }

    pub fn seen(&self, what: &str) -> u64 {
        self.model.counts.get(what).copied().unwrap_or(0)
    }
}
