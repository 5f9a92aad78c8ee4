//! The conditions of `conditional-include`: `NAME OPERATOR VALUE`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::Variable;
use super::node::At;
use crate::error::Result;

const OPERATORS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];

/// Evaluates one condition. Errors, at `at`: a malformed condition, an unknown variable, an order of things that
/// have none, two types compared.
pub(super) fn evaluate(text: &str, at: &At, variables: &BTreeMap<String, Variable>) -> Result<bool> {
    let shape = || {
        at.error(format!("condition '{text}': expected NAME OPERATOR VALUE"))
            .hint("For example: releasever == \"trixie\". Operators are == != < <= > >=.")
    };
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c))).ok_or_else(shape)?;
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let operator = OPERATORS.iter().find(|o| rest.starts_with(**o)).ok_or_else(shape)?;
    let literal = literal(rest[operator.len()..].trim()).ok_or_else(|| {
        at.error(format!("condition '{text}': the value must be true, false, a number or a string in quotes"))
    })?;
    let Some(variable) = variables.get(name) else {
        let known: Vec<&str> = variables.keys().map(String::as_str).collect();
        return Err(at
            .error(format!("condition '{text}': there is no variable '{name}' here"))
            .hint(format!("Variables known at this point: {}.", known.join(", "))));
    };
    let order = match (variable, &literal) {
        (Variable::Number(a), Variable::Number(b)) => {
            a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)).unwrap_or(Ordering::Equal)
        }
        (Variable::Bool(_), Variable::Bool(_)) | (Variable::String(_), Variable::String(_)) => {
            if !matches!(*operator, "==" | "!=") {
                return Err(at.error(format!("condition '{text}': {operator} compares numbers only")));
            }
            if *variable == literal { Ordering::Equal } else { Ordering::Less }
        }
        _ => {
            return Err(at.error(format!(
                "condition '{text}': {name} is {}, the value is {}",
                type_name(variable),
                type_name(&literal)
            )));
        }
    };
    Ok(match *operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<=" => order.is_le(),
        ">=" => order.is_ge(),
        "<" => order.is_lt(),
        _ => order.is_gt(),
    })
}

fn type_name(value: &Variable) -> &'static str {
    match value {
        Variable::Bool(_) => "a boolean",
        Variable::Number(_) => "a number",
        Variable::String(_) => "a string",
    }
}

fn literal(text: &str) -> Option<Variable> {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            let inner = inner.strip_suffix(quote)?;
            return (!inner.contains(quote)).then(|| Variable::String(inner.to_owned()));
        }
    }
    match text {
        "true" => Some(Variable::Bool(true)),
        "false" => Some(Variable::Bool(false)),
        _ => number(text).map(Variable::Number),
    }
}

/// A whole or decimal number; nothing that only floating point knows (`inf`, `1e5` is fine).
pub(super) fn number(text: &str) -> Option<serde_json::Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    text.bytes()
        .any(|c| c.is_ascii_digit())
        .then(|| text.parse::<f64>().ok())
        .flatten()
        .and_then(serde_json::Number::from_f64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn run(text: &str) -> Result<bool> {
        let at = At { file: Path::new("t.yaml").into(), line: 7 };
        let variables = BTreeMap::from([
            ("n".to_owned(), Variable::Number(13.into())),
            ("s".to_owned(), Variable::String("trixie".into())),
            ("b".to_owned(), Variable::Bool(true)),
        ]);
        evaluate(text, &at, &variables)
    }

    #[test]
    fn compares() {
        for (text, expected) in [
            ("n == 13", true),
            ("n==13.0", true),
            ("n != 13", false),
            ("n >= 14", false),
            ("n<=13", true),
            ("n < 13", false),
            ("n > 12.5", true),
            ("s == \"trixie\"", true),
            ("s != 'trixie'", false),
            ("b == true", true),
            ("b != true", false),
        ] {
            assert_eq!(run(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn explains_what_it_cannot_compare() {
        for (text, expected) in [
            ("", "expected NAME OPERATOR VALUE"),
            ("n", "expected NAME OPERATOR VALUE"),
            ("n = 3", "expected NAME OPERATOR VALUE"),
            ("s == trixie", "a string in quotes"),
            ("s == \"a", "a string in quotes"),
            ("x == 1", "no variable 'x'"),
            ("s < \"x\"", "< compares numbers only"),
            ("n == \"13\"", "n is a number, the value is a string"),
        ] {
            let error = run(text).unwrap_err().to_string();
            assert!(error.starts_with("t.yaml:7: condition '") && error.contains(expected), "{text}: {error}");
        }
    }
}
