use super::*;
use crate::sampler::Sampling;
use proptest::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const VOCABULARY: usize = 8;

fn request(prompt: usize, max_tokens: usize) -> (Request, UnboundedReceiver<Event>) {
    let (events, receiver) = unbounded_channel();
    let request = Request {
        prompt: (0..prompt as u32).map(|i| i % 7).collect(),
        max_tokens,
        sampling: Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
        },
        seed: (prompt as u64, 0),
        scores: Some(1),
        score_prompt: prompt.is_multiple_of(2),
        ignore_end: false,
        arrived: Instant::now(),
        events,
    };
    (request, receiver)
}

/// Logits that depend on token and position alone, as a model's do.
fn logits(row: &Row) -> [f32; VOCABULARY] {
    std::array::from_fn(|i| {
        ((row.token as usize * 31 + row.position * 17 + i * 7) % 13) as f32 / 4.0
    })
}

/// One step of an engine whose network is `logits`.
fn advance(scheduler: &mut Scheduler) -> Step {
    scheduler.admit(Instant::now());
    let step = scheduler.plan();
    let mut rows = step.rows.as_slice();
    for (sequence, count) in scheduler.running().iter_mut().zip(&step.counts) {
        let (own, rest) = rows.split_at(*count);
        rows = rest;
        let values: Vec<f32> = own
            .iter()
            .filter(|row| row.logits)
            .flat_map(logits)
            .collect();
        sequence.absorb(*count, &values, VOCABULARY, &[7]);
    }
    step
}

fn drain(receiver: &mut UnboundedReceiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

fn alone(prompt: usize, max_tokens: usize) -> Vec<Event> {
    let (request, mut receiver) = request(prompt, max_tokens);
    let mut scheduler = Scheduler::new(
        Limits {
            running: 1,
            prefill: 1000,
        },
        100,
    );
    scheduler.push(request);
    while scheduler.waiting() + scheduler.running().len() > 0 {
        advance(&mut scheduler);
        scheduler.sweep();
    }
    drain(&mut receiver)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_request_gets_its_own_answer_within_the_limits(
        shapes in prop::collection::vec((1usize..40, 0usize..30, prop::option::weighted(0.2, 0usize..20)), 1..16),
        running in 1usize..6, prefill in 1usize..20, blocks in 5usize..12,
    ) {
        let mut scheduler = Scheduler::new(Limits { running, prefill }, blocks);
        let mut receivers = Vec::new();
        for (prompt, max_tokens, _) in &shapes {
            let (request, receiver) = request(*prompt, *max_tokens);
            scheduler.push(request);
            receivers.push(Some(receiver));
        }
        let mut departed = 0;
        for step in 0..10_000 {
            for (receiver, (_, _, leaves)) in receivers.iter_mut().zip(&shapes) {
                if *leaves == Some(step) {
                    *receiver = None;
                }
            }
            departed += scheduler.sweep().len();
            prop_assert!(scheduler.running().iter().all(|s| !s.abandoned()), "an abandoned sequence outlives a step");
            if departed == shapes.len() {
                break;
            }
            let planned = advance(&mut scheduler);
            prop_assert!(scheduler.running().len() <= running);
            let generating = scheduler.running().iter().filter(|s| s.generated() > 0).count();
            prop_assert!(planned.rows.len() <= prefill + generating + running);
            prop_assert!(!planned.rows.is_empty(), "a step without work while requests wait");
            prop_assert!(scheduler.usage() <= 1.0);
        }
        prop_assert_eq!(departed, shapes.len());
        prop_assert_eq!(scheduler.usage(), 0.0);
        for (receiver, (prompt, max_tokens, _)) in receivers.iter_mut().zip(&shapes) {
            if let Some(receiver) = receiver {
                prop_assert_eq!(drain(receiver), alone(*prompt, *max_tokens));
            }
        }
    }
}

#[test]
fn the_events_of_a_scored_request_are_complete() {
    let events = alone(4, 3);
    let Event::Prompt(scores) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(scores.len(), 4);
    assert!(scores[0].is_none() && scores[1..].iter().all(Option::is_some));
    assert_eq!(scores[2].as_ref().unwrap().token, 2);
    let tokens = events
        .iter()
        .filter(|e| matches!(e, Event::Token { score: Some(_), .. }))
        .count();
    assert!(tokens >= 1 && matches!(events.last(), Some(Event::End(_))));
    assert_eq!(tokens, events.len() - 2);
    assert!(matches!(
        alone(4, 0).as_slice(),
        [Event::Prompt(_), Event::End(Finish::Length)]
    ));
    assert!(matches!(
        alone(5, 0).as_slice(),
        [Event::End(Finish::Length)]
    ));
}

#[test]
fn nobody_overtakes_and_streams_go_on_during_a_long_prompt() {
    let mut scheduler = Scheduler::new(
        Limits {
            running: 3,
            prefill: 4,
        },
        8,
    );
    let (first, _keep) = request(3, 40);
    let (long, _keep2) = request(65, 8);
    let (small, _keep3) = request(1, 1);
    for request in [first, long, small] {
        scheduler.push(request);
    }
    advance(&mut scheduler);
    // The long one needs 5 of 8 blocks, 3 are taken: both fit, the small one has to wait.
    assert_eq!((scheduler.running().len(), scheduler.waiting()), (2, 1));
    let step = advance(&mut scheduler);
    assert_eq!(
        step.counts,
        [1, 4],
        "one generated token and a bounded part of the prompt"
    );
}

#[test]
fn damaged_numbers_end_one_sequence_with_a_failure() {
    let mut scheduler = Scheduler::new(
        Limits {
            running: 2,
            prefill: 8,
        },
        8,
    );
    let (request, mut receiver) = request(1, 4);
    scheduler.push(request);
    scheduler.admit(Instant::now());
    scheduler.running()[0].absorb(1, &[f32::NAN; VOCABULARY], VOCABULARY, &[]);
    assert!(matches!(
        scheduler.sweep()[0].outcome,
        Some(Err(Failure::NotFinite(_)))
    ));
    assert!(matches!(
        drain(&mut receiver).last(),
        Some(Event::Failed(_))
    ));
    assert_eq!(scheduler.usage(), 0.0);
}
