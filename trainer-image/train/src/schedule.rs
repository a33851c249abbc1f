//! Owns the learning rate as a function of the step; it must not keep state.

use bessemer_protocol::task::{Schedule, ScheduleKind};

/// Factor of the peak learning rate for update `step` (from 0) of `total`. Warmup is linear and reaches the peak
/// at its end; step 0 already moves (nanoGPT's `(step + 1) / (warmup + 1)`). The form after warmup ends at
/// `final_share` for the update after the last.
pub fn factor(schedule: &Schedule, step: u64, total: u64) -> f64 {
    let warmup = schedule.warmup_steps.min(total);
    if step < warmup {
        return (step + 1) as f64 / (warmup + 1) as f64;
    }
    let low = schedule.final_share;
    let share = |from: u64| {
        let length = total.saturating_sub(from).max(1);
        (step.saturating_sub(from) as f64 / length as f64).min(1.0)
    };
    match schedule.kind {
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Linear => 1.0 - (1.0 - low) * share(warmup),
        ScheduleKind::Cosine => {
            low + (1.0 - low) * 0.5 * (1.0 + (std::f64::consts::PI * share(warmup)).cos())
        }
        ScheduleKind::WSD => {
            let start = total.saturating_sub(schedule.decay_steps).max(warmup);
            1.0 - (1.0 - low) * share(start)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule {
            kind,
            warmup_steps: 100,
            decay_steps: 200,
            final_share: 0.1,
        }
    }

    fn close(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-12, "{left} {right}");
    }

    #[test]
    fn nanogpts_schedule_comes_out() {
        // get_lr of nanoGPT's train.py with lr 1e-3, min_lr 1e-4, warmup 100, decay over 2,000.
        let cosine = schedule(ScheduleKind::Cosine);
        for (step, rate) in [
            (0, 1e-3 / 101.0),
            (99, 1e-3 * 100.0 / 101.0),
            (100, 1e-3),
            (1050, 5.5e-4),
            (2000, 1e-4),
        ] {
            close(1e-3 * factor(&cosine, step, 2000), rate);
        }
    }

    #[test]
    fn the_other_forms_have_their_corners() {
        let (linear, wsd, constant) = (
            schedule(ScheduleKind::Linear),
            schedule(ScheduleKind::WSD),
            schedule(ScheduleKind::Constant),
        );
        close(factor(&linear, 1050, 2000), 0.55);
        close(factor(&linear, 2000, 2000), 0.1);
        close(factor(&wsd, 1800, 2000), 1.0);
        close(factor(&wsd, 1900, 2000), 0.55);
        close(factor(&constant, 1999, 2000), 1.0);
        for kind in [linear, wsd, constant] {
            close(factor(&kind, 0, 2000), 1.0 / 101.0);
        }
    }

    #[test]
    fn a_run_shorter_than_its_warmup_only_warms_up() {
        let cosine = schedule(ScheduleKind::Cosine);
        let rates: Vec<f64> = (0..50).map(|step| factor(&cosine, step, 50)).collect();
        assert!(
            rates.windows(2).all(|pair| pair[0] < pair[1]) && rates.iter().all(|rate| *rate < 1.0)
        );
    }
}
