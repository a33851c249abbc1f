//! Owns the way in from outside the process: listener, bearer tokens, kubeconfig. Must not know objects.

pub mod private;
