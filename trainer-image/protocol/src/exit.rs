//! Owns how a worker ends: exit codes after sysexits(3) and the termination message.

use serde::{Deserialize, Serialize};

/// Why a worker ended. The operator's podFailurePolicy is rendered from this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// The result is committed.
    Success = 0,
    /// EX_USAGE: the run configuration is invalid. Terminal.
    BadConfig = 64,
    /// EX_DATAERR: the data is invalid. Terminal.
    BadData = 65,
    /// EX_NOINPUT: an input is missing or not what its digest says. Terminal.
    MissingInput = 66,
    /// EX_SOFTWARE: a bug. Tried again.
    Bug = 70,
    /// EX_TEMPFAIL: interrupted or a dependency is away; try again from the last checkpoint.
    TryAgain = 75,
    /// EX_CONFIG: the environment cannot do the work (no disk, no libtorch, no GPU). Terminal.
    Environment = 78,
}

impl ExitCode {
    /// Codes after which another attempt would end in the same way.
    pub const TERMINAL: [ExitCode; 4] = [
        ExitCode::BadConfig,
        ExitCode::BadData,
        ExitCode::MissingInput,
        ExitCode::Environment,
    ];

    /// The number given to the operating system.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The meaning of a process's exit code, if it is one of ours.
    pub fn from_code(code: i32) -> Option<Self> {
        [
            Self::Success,
            Self::BadConfig,
            Self::BadData,
            Self::MissingInput,
            Self::Bug,
            Self::TryAgain,
            Self::Environment,
        ]
        .into_iter()
        .find(|known| known.code() == code)
    }

    /// Whether another attempt would end in the same way.
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }
}

/// The termination message of a pod: one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// Stable PascalCase word, used as condition reason.
    pub category: String,
    /// What happened, one sentence.
    pub message: String,
    /// What to do about it, one sentence; empty when there is nothing to add.
    #[serde(default)]
    pub hint: String,
}

impl Termination {
    /// Longest message that Kubernetes keeps, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// The JSON form, shortened so that it fits into [`Self::MAX_BYTES`].
    pub fn to_json(&self) -> String {
        let mut short = self.clone();
        loop {
            let text = serde_json::to_string(&short).unwrap_or_default();
            if text.len() <= Self::MAX_BYTES {
                return text;
            }
            let over = text.len() - Self::MAX_BYTES; // an escaped byte takes at most six
            let longest = if short.message.len() >= short.hint.len() {
                &mut short.message
            } else {
                &mut short.hint
            };
            let mut end = longest.len().saturating_sub((over / 6).max(1));
            while end > 0 && !longest.is_char_boundary(end) {
                end -= 1;
            }
            longest.truncate(end);
        }
    }

    /// Reads a pod's termination message; text that is not ours becomes the message itself.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text.trim()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_terminal_ones_are_known() {
        for code in [0, 64, 65, 66, 70, 75, 78] {
            assert_eq!(ExitCode::from_code(code).unwrap().code(), code);
        }
        assert_eq!(ExitCode::from_code(1), None);
        assert!(ExitCode::BadData.is_terminal() && !ExitCode::TryAgain.is_terminal());
    }

    #[test]
    fn a_long_message_is_cut_at_a_character_and_stays_json() {
        let long = Termination {
            category: "BadData".into(),
            message: "ü\n".repeat(5000),
            hint: "x".repeat(100),
        };
        let text = long.to_json();
        assert!(text.len() <= Termination::MAX_BYTES);
        let back = Termination::parse(&text).unwrap();
        assert!(back.message.starts_with("ü\n") && back.hint == long.hint);
    }
}
