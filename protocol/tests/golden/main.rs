//! The wire as it is written down: golden samples, golden vectors, and the types of the web client.

mod messages;
mod typescript;
mod vectors;
