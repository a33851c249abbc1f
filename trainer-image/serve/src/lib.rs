//! Owns serving a model over the OpenAI API from one process. It must not decide where traffic
//! goes (that is bessemer-route) or which model may be served (that is the operator).
//!
//! A request becomes engine sequences (`api`), the engine thread runs them together (`engine`) on a
//! CPU forward pass whose result for a sequence does not depend on the others (`network`, `kernel`),
//! or on libtorch's (`torch`), which a GPU computes.

mod api;
mod cache;
mod engine;
mod kernel;
mod metric;
mod network;
mod sampler;
mod text;
mod torch;
mod vocabulary;

pub use network::LoadError;
pub use vocabulary::VocabularyError;

use api::{Served, Server};
use bessemer_model::Directory;
use bessemer_protocol::task::ServeTask;
use bessemer_route::drain::{Drain, ListenError};
use bessemer_route::key::Keys;
use cache::{Allocator, BLOCK};
use engine::{Engine, EngineOptions, Limits, Native};
use metric::Metrics;
use network::{Network, Shape};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tch::Device;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use torch::Torch;
use vocabulary::Vocabulary;

/// Prompt tokens computed in one step: enough to use the weights well once they are read, few
/// enough that running streams go on several times a second on a small machine.
const PREFILL: usize = 64;
/// The same where libtorch computes: a GPU reaches its rate with many rows at once.
const PREFILL_TORCH: usize = 2048;
/// Bytes of key-value cache on CPUs unless a single full context needs more.
const CACHE_BYTES: usize = 1 << 30;
/// Silence of the engine after which the server is not ready.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Where a server finds what its task does not tell.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Hugging Face directory of the model, already verified.
    pub model: PathBuf,
    /// Digest of the model's artefact; sent with every answer.
    pub digest: String,
    /// Directory of API keys (a mounted Secret).
    pub keys: Option<PathBuf>,
    /// Threads that compute.
    pub threads: usize,
    /// What computes.
    pub backend: Backend,
}

/// What computes a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Backend {
    /// This crate's own engine, on CPUs.
    Native,
    /// libtorch on this device: how a GPU serves.
    Torch(Device),
}

/// Why a server ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model cannot be served.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// Threads could not be started.
    #[error("cannot start the engine: {0}; allow more threads or memory")]
    Start(#[from] std::io::Error),
    /// The listener failed.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The engine thread ended by itself.
    #[error("the engine stopped unexpectedly; why is in the log above")]
    EngineStopped,
}

impl ServeError {
    /// Stable word for conditions and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Load(error) => error.category(),
            Self::Vocabulary(error) => error.category(),
            Self::Start(_) => "EngineNotStarted",
            Self::Listen(error) => error.category(),
            Self::EngineStopped => "EngineStopped",
        }
    }
}

/// Serves on `listener` (see [`bessemer_route::drain::bind`]) until `shutdown`, then drains for at
/// most the task's time and returns. While the model is being loaded, /health answers and /ready
/// and requests get 503.
///
/// # Errors
/// When the model cannot be loaded, the listener fails or the engine stops.
pub async fn serve(
    listener: TcpListener,
    task: ServeTask,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let server = Arc::new(Server {
        served: OnceLock::new(),
        digest: options.digest.clone(),
        keys: task
            .require_api_key
            .then(|| Keys::new(options.keys.clone())),
        drain: Drain::default(),
        stuck_after: STUCK_AFTER,
        span: Mutex::new(Some(tracing::Span::current())),
    });
    let deadline = Duration::from_secs(task.drain_seconds.into());
    let serving = server
        .drain
        .serve(listener, api::router(server.clone()), shutdown, deadline);
    let working = async {
        let loaded = tokio::task::spawn_blocking(move || load(&task, &options)).await;
        let served = Arc::new(loaded.map_err(std::io::Error::other)??);
        tracing::info!(model = served.model, digest = server.digest, "model loaded");
        let _ = server.served.set(served.clone());
        while !served.engine.pulse().stopped() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(ServeError::EngineStopped)
    };
    tokio::select! {
        result = serving => Ok(result?),
        result = working => result,
    }
}

fn load(task: &ServeTask, options: &ServeOptions) -> Result<Served, ServeError> {
    let directory = Directory::new(&options.model);
    let vocabulary = Vocabulary::new(directory.tokenizer().map_err(LoadError::from)?)?;
    let template = directory.chat_template().map_err(LoadError::from)?;
    let ends = directory
        .ends()
        .map_err(LoadError::from)?
        .into_iter()
        .filter_map(|id| u32::try_from(id).ok())
        .collect();
    let running = task.max_concurrency.max(1) as usize;
    let (model, shape, blocks) = model(&directory, options.backend, running, ends)?;
    let metrics = Arc::new(Metrics::new(
        &task.model_name,
        &options.digest,
        BLOCK,
        blocks,
    ));
    let engine_options = EngineOptions {
        limits: Limits {
            running,
            prefill: match options.backend {
                Backend::Native => PREFILL,
                Backend::Torch(_) => PREFILL_TORCH,
            },
        },
        blocks,
        queue: task.max_queue as usize,
        threads: options.threads,
    };
    let engine = Engine::start(model, engine_options, metrics.clone())?;
    Ok(Served {
        model: task.model_name.clone(),
        vocabulary: Arc::new(vocabulary),
        template,
        context: shape.context,
        vocabulary_size: shape.vocabulary,
        engine,
        metrics,
    })
}

/// The model of `directory`, its shape, and how many cache blocks it has.
fn model(
    directory: &Directory,
    backend: Backend,
    running: usize,
    ends: Vec<u32>,
) -> Result<(Box<dyn engine::Model>, Shape, usize), LoadError> {
    let load = |device| directory.load(None, None, device);
    let (model, shape, blocks, bytes): (Box<dyn engine::Model>, _, _, _) = match backend {
        Backend::Native => {
            let network = Network::new(&load(Device::Cpu)?)?;
            let shape = *network.shape();
            let blocks = blocks(&shape, running, size_of::<f32>(), CACHE_BYTES);
            let bytes = network.bytes();
            let native = Native::new(network, blocks, ends);
            (Box::new(native), shape, blocks, bytes)
        }
        Backend::Torch(device) => {
            let model = load(device)?;
            let shape = Shape::from(model.config());
            let torch = Torch::new(model, ends)?;
            let room = torch.room().unwrap_or(CACHE_BYTES);
            let blocks = blocks(&shape, running, torch.element(), room);
            let bytes = torch.bytes();
            (Box::new(torch), shape, blocks, bytes)
        }
    };
    tracing::info!(
        weight_bytes = bytes,
        cache_positions = blocks * BLOCK,
        "weights in memory"
    );
    Ok((model, shape, blocks))
}

/// Cache blocks: all sequences at full length if that fits into `room` bytes, and at least one of them. `element` is
/// the size of an element of the cache.
fn blocks(shape: &Shape, running: usize, element: usize, room: usize) -> usize {
    let position = shape.layers * shape.key_value_heads * shape.head_width * 2 * element;
    let affordable = room / (position * BLOCK).max(1);
    let one = Allocator::needed(shape.context);
    (one * running).min(affordable).max(one)
}
