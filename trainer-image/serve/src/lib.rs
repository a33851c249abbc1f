//! Owns serving a model over the OpenAI API from one process. It must not decide where traffic
//! goes (that is bessemer-route) or which model may be served (that is the operator).

mod cache;
mod engine;
mod kernel;
mod metric;
mod network;
mod sampler;
mod text;
mod vocabulary;
