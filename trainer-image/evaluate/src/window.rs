//! Owns which tokens are predicted from which: rolling windows as lm-evaluation-harness 0.4 makes them
//! (`get_rolling_token_windows` with `make_disjoint_window`, context length 1); it must not ask a model.

use std::ops::Range;

/// One forward pass over a stretch of `[prefix] + tokens`; its last `predicted` positions predict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Positions of the inputs in `[prefix] + tokens`; input `i` predicts position `i + 1`.
    pub inputs: Range<usize>,
    /// How many of the last inputs count.
    pub predicted: usize,
}

/// Windows that predict each of `tokens` tokens exactly once. The first conditions on the prefix alone; later ones
/// predict up to `context` new tokens, the last one with as much context as fits.
pub fn rolling(tokens: usize, context: usize) -> Vec<Window> {
    let context = context.max(1);
    let first = tokens.min(context);
    let mut windows = Vec::new();
    if first > 0 {
        windows.push(Window {
            inputs: 0..first,
            predicted: first,
        });
    }
    let mut done = first;
    while done < tokens {
        let predicted = (tokens - done).min(context);
        let end = done + predicted;
        windows.push(Window {
            inputs: end - context..end,
            predicted,
        });
        done = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lm-eval's own documentation and unit test: ten tokens, windows of four.
    #[test]
    fn as_in_lm_evals_test() {
        let shape = |tokens, context| {
            rolling(tokens, context)
                .into_iter()
                .map(|one| (one.inputs.start, one.inputs.end, one.predicted))
                .collect::<Vec<_>>()
        };
        assert_eq!(shape(10, 4), [(0, 4, 4), (4, 8, 4), (6, 10, 2)]);
        assert_eq!(shape(10, 5), [(0, 5, 5), (5, 10, 5)]);
        assert_eq!(shape(3, 8), [(0, 3, 3)]);
        assert_eq!(shape(1, 1), [(0, 1, 1)]);
        assert!(rolling(0, 8).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn every_token_is_predicted_once_and_no_window_exceeds_the_context(tokens in 0usize..500, context in 1usize..40) {
            let mut next = 1;
            for window in rolling(tokens, context) {
                assert!(window.inputs.len() <= context && window.predicted <= window.inputs.len());
                assert_eq!(window.inputs.end + 1 - window.predicted, next);
                next = window.inputs.end + 1;
            }
            assert_eq!(next, tokens + 1);
        }
    }
}
