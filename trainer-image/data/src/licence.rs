//! Owns the licence policy over SPDX expressions, and what Cargo packages say of their files; it must not guess
//! licences from text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bessemer_protocol::task::LicensePolicy;

/// Licences that Cargo packages name for the files below them.
#[derive(Debug, Default)]
pub(crate) struct Crates {
    known: HashMap<PathBuf, Option<String>>,
}

impl Crates {
    /// `package.license` of the nearest `Cargo.toml` above a file, not above `root`.
    pub(crate) fn license(&mut self, root: &Path, file: &Path) -> Option<String> {
        let directory = file
            .parent()
            .filter(|directory| directory.starts_with(root))?;
        if let Some(known) = self.known.get(directory) {
            return known.clone();
        }
        let own = std::fs::read_to_string(directory.join("Cargo.toml"))
            .ok()
            .and_then(|manifest| package_license(&manifest));
        // The parent is asked as if the directory were a file in it.
        let license = own.or_else(|| self.license(root, directory));
        self.known.insert(directory.to_owned(), license.clone());
        license
    }
}

fn package_license(manifest: &str) -> Option<String> {
    let package = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[package]")
        .skip(1);
    package
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| {
            let value = line
                .strip_prefix("license")?
                .trim_start()
                .strip_prefix('=')?
                .trim();
            value
                .strip_prefix('"')?
                .split_once('"')
                .map(|(license, _)| license.to_owned())
        })
}

/// Whether a document with this expression may be used: `None` when it may, else the reason.
///
/// `A OR B` may be used when either may, `A AND B` when both may; a document without a licence passes only while no
/// allow list is given.
pub(crate) fn refused(policy: &LicensePolicy, expression: Option<&str>) -> Option<&'static str> {
    let Some(expression) = expression
        .map(str::trim)
        .filter(|expression| !expression.is_empty())
    else {
        return (!policy.allow.is_empty()).then_some("licenseUnknown");
    };
    (!usable(policy, expression)).then_some("licenseDenied")
}

fn usable(policy: &LicensePolicy, expression: &str) -> bool {
    // Cargo's old form `MIT/Apache-2.0` means OR.
    let spaced = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    words
        .split(|word| word.eq_ignore_ascii_case("or"))
        .any(|choice| {
            choice
                .split(|word| word.eq_ignore_ascii_case("and"))
                .all(|parts| {
                    // `X WITH exception` is judged by X, and by the whole where that is listed.
                    parts
                        .first()
                        .is_some_and(|id| listed(policy, id, &parts.join(" ")))
                })
        })
}

fn listed(policy: &LicensePolicy, id: &str, whole: &str) -> bool {
    let on = |list: &[String]| {
        list.iter()
            .any(|item| item.eq_ignore_ascii_case(id) || item.eq_ignore_ascii_case(whole))
    };
    !on(&policy.deny) && (policy.allow.is_empty() || on(&policy.allow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_crate_names_the_licence() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "a/Cargo.toml",
            "[package]\nname = \"a\"\nlicense-file = \"x\"\nlicense = \"MIT OR Apache-2.0\"\n",
        );
        write("a/src/deep/lib.rs", "");
        write(
            "a/inner/Cargo.toml",
            "[package]\nname = \"b\"\n[dependencies]\nlicense = \"1\"\n",
        );
        write("b/lib.rs", "");
        let mut crates = Crates::default();
        let mut of = |path: &str| crates.license(root.path(), &root.path().join(path));
        assert_eq!(
            of("a/src/deep/lib.rs").as_deref(),
            Some("MIT OR Apache-2.0")
        );
        assert_eq!(of("a/inner/x.rs").as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(of("b/lib.rs"), None);
        let below = Crates::default().license(
            &root.path().join("a/src"),
            &root.path().join("a/src/deep/lib.rs"),
        );
        assert_eq!(below, None, "nothing above the source's root is read");
    }

    #[test]
    fn expressions_are_judged_by_their_parts() {
        let policy = LicensePolicy {
            allow: vec!["MIT".into(), "Apache-2.0".into()],
            deny: vec![],
        };
        for (expression, reason) in [
            (Some("MIT"), None),
            (Some("mit"), None),
            (Some("MIT OR GPL-3.0-only"), None),
            (Some("MIT/GPL-3.0"), None),
            (Some("(MIT OR Apache-2.0) AND MIT"), None),
            (Some("MIT AND GPL-3.0-only"), Some("licenseDenied")),
            (Some("Apache-2.0 WITH LLVM-exception"), None),
            (Some("GPL-3.0-only"), Some("licenseDenied")),
            (None, Some("licenseUnknown")),
        ] {
            assert_eq!(refused(&policy, expression), reason, "{expression:?}");
        }
        let deny = LicensePolicy {
            allow: vec![],
            deny: vec!["GPL-3.0-only".into()],
        };
        assert_eq!(refused(&deny, None), None);
        assert_eq!(refused(&deny, Some("GPL-3.0-only")), Some("licenseDenied"));
    }
}
