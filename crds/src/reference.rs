//! Owns references between objects, always within one namespace.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of Bessemer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Kind {
    /// Text to token shards.
    Dataset,
    /// Token shards to a model.
    PretrainJob,
    /// A model to a tuned model.
    FineTune,
    /// A model to numbers.
    Evaluation,
    /// A model to a served model.
    Deployment,
}

impl Kind {
    /// All kinds, upstream first.
    pub const ALL: [Kind; 5] = [
        Kind::Dataset,
        Kind::PretrainJob,
        Kind::FineTune,
        Kind::Evaluation,
        Kind::Deployment,
    ];

    /// PascalCase name as in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Dataset => "Dataset",
            Kind::PretrainJob => "PretrainJob",
            Kind::FineTune => "FineTune",
            Kind::Evaluation => "Evaluation",
            Kind::Deployment => "Deployment",
        }
    }

    /// Plural resource name.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Dataset => "datasets",
            Kind::PretrainJob => "pretrainjobs",
            Kind::FineTune => "finetunes",
            Kind::Evaluation => "evaluations",
            Kind::Deployment => "deployments",
        }
    }

    /// Short name for `kubectl get`.
    pub const fn short(self) -> &'static str {
        match self {
            Kind::Dataset => "dset",
            Kind::PretrainJob => "pj",
            Kind::FineTune => "ft",
            Kind::Evaluation => "eval",
            Kind::Deployment => "mdeploy",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An object of a kind that the field's place decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedRef {
    /// Name of the object in the same namespace.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// A model: made by a PretrainJob or FineTune, or found at a URI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.uri) ? !has(self.kind) && !has(self.name) : has(self.kind) && has(self.name)").message("give either kind and name, or uri"))]
pub struct ModelRef {
    /// PretrainJob or FineTune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModelKind>,
    /// Name of the object in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub name: Option<String>,
    /// `s3://bucket/prefix` of an artefact directory (with manifest.json).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^s3://"))]
    pub uri: Option<String>,
}

/// Kinds that make models.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ModelKind {
    /// Pretrained.
    PretrainJob,
    /// Tuned.
    FineTune,
}

impl From<ModelKind> for Kind {
    fn from(kind: ModelKind) -> Self {
        match kind {
            ModelKind::PretrainJob => Kind::PretrainJob,
            ModelKind::FineTune => Kind::FineTune,
        }
    }
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
