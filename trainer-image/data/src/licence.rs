//! Owns the licence policy over SPDX expressions; it must not guess licences.

use bessemer_protocol::task::LicensePolicy;

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
