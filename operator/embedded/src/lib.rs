//! The Kubernetes API in one process, with the pieces the operator needs: for local mode and for simulation.
//!
//! [`Api`] is the API server: a tower service over committed objects, for
//! `kube::Client::new(api, "default")`. Time, randomness and storage are given to it; a
//! [`fault::Fault`] may disturb every request and watch. `server` opens it to plain `kubectl`.

pub mod api;
mod apply;
mod builtin;
pub mod clock;
pub mod controller;
mod convert;
mod custom;
mod decode;
mod discovery;
mod encode;
pub mod fault;
mod handler;
pub mod log;
pub mod node;
pub mod object;
pub mod objectstore;
mod patch;
mod pattern;
mod protobuf;
mod registry;
mod request;
mod schema;
mod selector;
pub mod server;
mod state;
mod status;
pub mod storage;
mod strategy;
pub mod token;
mod validation;

pub use api::{Api, Options};
pub use request::{User, Verb};
