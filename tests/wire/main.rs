//! The relay over real sockets, port 0: what a client in any language would see. Every wait is for
//! a condition.

#![allow(clippy::disallowed_methods, reason = "tests plant what they like")]
#![allow(clippy::unwrap_used)]

mod copies;
mod damage;
mod decoders;
mod downloads;
mod duplicate_delivery;
mod joining;
mod limits;
mod native;
mod paths;
mod steering;
mod transfers;
mod url_forms;
