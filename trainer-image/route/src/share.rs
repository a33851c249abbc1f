//! Owns the choice of a backend for each request by weight. It must be a function of the count of
//! requests alone: no clock, no randomness, no readiness of its own.
//!
//! The backend with the greatest weight (the first of equals) is the primary. Every other backend
//! gets a request only when that keeps it at or below its share of all requests so far, so a
//! canary never sees more than was configured, at any moment; the primary takes the rest. A
//! backend that is not ready gets nothing: what a canary leaves goes to the primary, what the
//! primary leaves goes to nobody.

/// What a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The backend with this index.
    Backend(usize),
    /// The primary's turn, but it is not ready.
    PrimaryNotReady,
    /// All weights are 0.
    NoWeight,
}

/// Counters of one configuration.
#[derive(Debug)]
pub struct Share {
    weights: Vec<u32>,
    requests: u64,
    given: Vec<u64>,
}

impl Share {
    /// Starts counting for `weights`.
    #[must_use]
    pub fn new(weights: Vec<u32>) -> Self {
        Self {
            given: vec![0; weights.len()],
            requests: 0,
            weights,
        }
    }

    /// Index of the backend with the greatest weight, if any has one.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        let weighted = self
            .weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0);
        weighted
            .min_by_key(|(index, weight)| (std::cmp::Reverse(**weight), *index))
            .map(|(index, _)| index)
    }

    /// Chooses for the next request; `ready` tells which backends can take it.
    pub fn next(&mut self, ready: impl Fn(usize) -> bool) -> Choice {
        let Some(primary) = self.primary() else {
            return Choice::NoWeight;
        };
        self.requests += 1;
        let total: u64 = self.weights.iter().map(|weight| u64::from(*weight)).sum();
        let due = (0..)
            .zip(&self.weights)
            .zip(&self.given)
            .find(|((index, weight), given)| {
                let allowed = self.requests * u64::from(**weight) / total;
                *index != primary && **given < allowed && ready(*index)
            });
        let chosen = due.map_or(primary, |((index, _), _)| index);
        if chosen == primary && !ready(primary) {
            return Choice::PrimaryNotReady;
        }
        if let Some(given) = self.given.get_mut(chosen) {
            *given += 1;
        }
        Choice::Backend(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(weights: &[u32], requests: usize, ready: impl Fn(usize, usize) -> bool) -> Vec<Choice> {
        let mut share = Share::new(weights.to_vec());
        (0..requests)
            .map(|request| share.next(|index| ready(request, index)))
            .collect()
    }

    #[test]
    fn a_canary_of_ten_percent_gets_every_tenth_request() {
        let choices = run(&[90, 10], 40, |_, _| true);
        let canary: Vec<usize> = (0..40)
            .filter(|i| choices[*i] == Choice::Backend(1))
            .collect();
        assert_eq!(canary, [9, 19, 29, 39]);
        assert_eq!(
            run(&[90, 10], 40, |_, _| true),
            choices,
            "the same counter gives the same choice"
        );
    }

    #[test]
    fn nobody_takes_over_from_the_primary() {
        let choices = run(&[80, 20], 10, |_, index| index == 1);
        assert_eq!(
            choices.iter().filter(|c| **c == Choice::Backend(1)).count(),
            2
        );
        assert_eq!(
            choices
                .iter()
                .filter(|c| **c == Choice::PrimaryNotReady)
                .count(),
            8
        );
        assert!(
            run(&[80, 20], 10, |_, index| index == 0)
                .iter()
                .all(|c| *c == Choice::Backend(0))
        );
        assert!(
            run(&[0, 0], 3, |_, _| true)
                .iter()
                .all(|c| *c == Choice::NoWeight)
        );
        assert!(
            run(&[0, 100], 3, |_, _| true)
                .iter()
                .all(|c| *c == Choice::Backend(1))
        );
    }

    proptest! {
        #[test]
        fn no_backend_but_the_primary_ever_exceeds_its_share(
            weights in prop::collection::vec(0u32..101, 1..5), outages in prop::collection::vec((0usize..200, 0usize..5), 0..20),
        ) {
            let total: u32 = weights.iter().sum();
            let primary = Share::new(weights.clone()).primary();
            let mut given = vec![0u64; weights.len()];
            let choices = run(&weights, 200, |request, index| !outages.contains(&(request, index)));
            for (request, choice) in choices.iter().enumerate() {
                match choice {
                    Choice::Backend(index) => {
                        given[*index] += 1;
                        prop_assert!(!outages.contains(&(request, *index)) && weights[*index] > 0);
                    }
                    Choice::PrimaryNotReady => prop_assert!(outages.contains(&(request, primary.unwrap()))),
                    Choice::NoWeight => prop_assert_eq!(total, 0),
                }
                for (index, given) in given.iter().enumerate() {
                    let allowed = (request as u64 + 1) * u64::from(weights[index]);
                    prop_assert!(Some(index) == primary || given * u64::from(total) <= allowed);
                }
            }
            // Without outages each also gets what it may, within the one request that is not due yet per rival.
            if outages.is_empty() && total > 0 {
                for (index, given) in given.iter().enumerate() {
                    prop_assert!(given + weights.len() as u64 >= 200 * u64::from(weights[index]) / u64::from(total));
                }
            }
        }
    }
}
