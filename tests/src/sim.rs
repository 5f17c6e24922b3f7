//! The simulation of the three state machines.
//!
//! [`Simulation`] wires the machines together in one thread. Its clock jumps from event to event,
//! and its connections delay, stall and break. [`model`] knows what must be true at every step and
//! at rest. [`scenario`] has the methods that make a test read like a story. One seed is one
//! schedule, always the same.

pub mod actors;
pub mod model;
pub mod random;
pub mod scenario;
pub mod simulation;

pub use simulation::{Simulation, SimulationConfig};
