//! Owns model families (GPT-2, Llama), their forward passes for training and serving, adapters, and the
//! Hugging Face directory in and out; it must not hold optimizers, data or sampling.
//!
//! Activations are packed: `[tokens, hidden]`, without a batch dimension; only attention knows where one
//! sequence ends. So a training batch, a prompt and a batch of decoding sequences take the same path
//! through all matrices.

mod adapter;
mod attention;
mod cache;
mod chat;
mod config;
mod directory;
mod error;
mod hugging_face;
mod initialise;
mod layer;
mod model;
mod parameter;
mod weight;

pub use adapter::{AdapterSpec, TARGETS};
pub use cache::{Cache, Segment};
pub use chat::{ChatTemplate, Message};
pub use config::{Config, Family};
pub use directory::{
    CHAT_TEMPLATE, CONFIG_FILE, Directory, GENERATION_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
    WEIGHTS_FILE,
};
pub use error::Error;
pub use model::Model;
pub use parameter::Parameter;
pub use weight::{read as read_safetensors, write as write_safetensors};
