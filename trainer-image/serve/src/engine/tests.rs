use super::*;
use crate::sampler::Sampling;
use std::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What a fake model does at each step.
pub(crate) type Behaviour = Box<dyn FnMut(&[Row]) + Send>;

/// A model over five ids that continues every token with the next one and does what it is told first.
pub(crate) struct Fake(pub Behaviour);

impl Model for Fake {
    fn forward(
        &mut self,
        rows: &[Row],
        _: &[&[u32]],
        beat: &(dyn Fn() + Sync),
    ) -> Result<Vec<f32>, bessemer_model::Error> {
        (self.0)(rows);
        beat();
        let next = |token: u32| (0..5).map(move |id| if id == (token + 1) % 5 { 9.0 } else { 0.0 });
        let wanted = rows.iter().filter(|row| row.logits);
        Ok(wanted.flat_map(|row| next(row.token)).collect())
    }

    fn vocabulary(&self) -> usize {
        5
    }

    fn ends(&self) -> &[u32] {
        &[4]
    }
}

pub(crate) fn start(running: usize, queue: usize, behaviour: Behaviour) -> (Engine, Arc<Metrics>) {
    start_over(Box::new(Fake(behaviour)), running, queue)
}

fn start_over(model: Box<dyn Model>, running: usize, queue: usize) -> (Engine, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new("fake", "d", 16, 64));
    let options = EngineOptions {
        limits: Limits {
            running,
            prefill: 8,
        },
        blocks: 64,
        queue,
        threads: 1,
    };
    (
        Engine::start(model, options, metrics.clone()).unwrap(),
        metrics,
    )
}

pub(crate) fn request(prompt: &[u32], max_tokens: usize) -> (Request, UnboundedReceiver<Event>) {
    let (events, receiver) = unbounded_channel();
    let sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
    };
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling,
        seed: (0, 0),
        scores: None,
        score_prompt: false,
        ignore_end: false,
        arrived: Instant::now(),
        events,
    };
    (request, receiver)
}

fn wait(condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it never came true");
}

#[test]
fn tokens_come_in_order_and_end_at_the_end_of_the_text() {
    let (engine, metrics) = start(2, 2, Box::new(|_| {}));
    let (request, mut receiver) = request(&[0], 10);
    engine.submit(vec![request]).unwrap();
    let events: Vec<Event> = std::iter::from_fn(|| receiver.blocking_recv()).collect();
    let token = |token| Event::Token { token, score: None };
    assert_eq!(
        events,
        [
            token(1),
            token(2),
            token(3),
            token(4),
            Event::End(Finish::Stop)
        ]
    );
    assert_eq!(metrics.generation_tokens.get(), 4);
}

#[test]
fn a_full_engine_takes_all_or_none_and_has_room_again() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let inner = gate.clone();
    let (engine, _) = start(1, 2, Box::new(move |_| drop(inner.lock().unwrap())));
    let (one, mut first) = request(&[0], 1);
    let (two, _second) = request(&[0], 1);
    let (three, _third) = request(&[0], 1);
    let (four, _fourth) = request(&[0], 1);
    engine.submit(vec![one, two]).unwrap();
    assert_eq!(engine.submit(vec![three, four]), Err(SubmitError::Full));
    let many = (0..4).map(|_| request(&[0], 1).0).collect();
    assert_eq!(engine.submit(many), Err(SubmitError::TooMany(3)));
    drop(held);
    while first.blocking_recv().is_some() {}
    wait(|| {
        let (again, _receiver) = request(&[0], 1);
        let (more, _receiver2) = request(&[0], 1);
        engine.submit(vec![again, more]).is_ok()
    });
}

#[test]
fn silence_tells_a_frozen_thread_and_a_panic_a_dead_one() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let inner = gate.clone();
    let (engine, _) = start(
        1,
        4,
        Box::new(move |rows| {
            drop(inner.lock().unwrap());
            assert!(rows[0].token != 3, "the model fails on purpose");
        }),
    );
    // Idle, the thread still beats.
    std::thread::sleep(Duration::from_millis(500));
    assert!(engine.pulse().silence() < Duration::from_millis(450));
    let (frozen, mut receiver) = request(&[0], 1);
    engine.submit(vec![frozen]).unwrap();
    wait(|| engine.pulse().silence() > Duration::from_millis(600));
    assert!(!engine.pulse().stopped());
    drop(held);
    while receiver.blocking_recv().is_some() {}
    wait(|| engine.pulse().silence() < Duration::from_millis(300));
    let (deadly, mut receiver) = request(&[3], 1);
    engine.submit(vec![deadly]).unwrap();
    assert_eq!(
        receiver.blocking_recv(),
        None,
        "the listener learns that nothing will come"
    );
    wait(|| engine.pulse().stopped());
}

/// A model whose pass fails, as on a GPU that is lost.
struct Lost;

impl Model for Lost {
    fn forward(
        &mut self,
        _: &[Row],
        _: &[&[u32]],
        _: &(dyn Fn() + Sync),
    ) -> Result<Vec<f32>, bessemer_model::Error> {
        Err(bessemer_model::Error::Context {
            wanted: 2,
            limit: 1,
        })
    }

    fn vocabulary(&self) -> usize {
        5
    }

    fn ends(&self) -> &[u32] {
        &[]
    }
}

#[test]
fn an_engine_whose_model_fails_ends_and_its_listeners_learn_it() {
    let (engine, _) = start_over(Box::new(Lost), 1, 1);
    let (one, mut receiver) = request(&[0], 1);
    engine.submit(vec![one]).unwrap();
    assert_eq!(receiver.blocking_recv(), None);
    wait(|| engine.pulse().stopped());
    assert_eq!(
        engine.submit(vec![request(&[0], 1).0]),
        Err(SubmitError::Stopped)
    );
}

#[test]
fn an_abandoned_sequence_is_gone_after_a_step() {
    let steps = Arc::new(AtomicUsize::new(0));
    let (counter, seen) = (steps.clone(), Arc::new(Mutex::new(Vec::new())));
    let rows_of = seen.clone();
    let (engine, metrics) = start(
        2,
        2,
        Box::new(move |rows| {
            counter.fetch_add(1, Ordering::AcqRel);
            rows_of.lock().unwrap().push(rows.len());
            std::thread::sleep(Duration::from_millis(2));
        }),
    );
    let ask = || {
        let (mut request, receiver) = request(&[0], 400);
        request.ignore_end = true;
        (request, receiver)
    };
    let ((stays, mut kept), (leaves, left)) = (ask(), ask());
    engine.submit(vec![stays, leaves]).unwrap();
    wait(|| steps.load(Ordering::Acquire) > 10);
    let at = steps.load(Ordering::Acquire);
    drop(left);
    wait(|| steps.load(Ordering::Acquire) > at + 4);
    let rows = seen.lock().unwrap().clone();
    assert_eq!(rows[at - 1], 2, "both ran before");
    assert!(
        rows[at + 2..].iter().all(|rows| *rows == 1),
        "one runs on alone: {rows:?}"
    );
    drop(engine);
    assert!(
        metrics
            .text()
            .contains("bessemer_requests_aborted_total{model_name=\"fake\",engine=\"0\"} 1")
    );
    assert!(matches!(kept.blocking_recv(), Some(Event::Token { .. })));
}
