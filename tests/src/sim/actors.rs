//! Who plays in the simulated world: each a machine of the hub with a driver that has no IO. A
//! driver may do nothing that a real one could not do, and should do all that one might.

pub mod device;
pub mod links;
pub mod master;
pub mod relay;
pub mod sim_slots;
