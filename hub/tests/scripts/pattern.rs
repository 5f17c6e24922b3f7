//! Names and wildcards of scripts.

use std::collections::BTreeMap;

use serde_json::Value;

/// What `$name` stands for.
pub(crate) type Names = BTreeMap<String, Value>;

/// Returns the value with all names replaced. An unknown name is a mistake in the script.
pub(crate) fn resolved(value: &Value, names: &Names) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) if text.starts_with('$') => {
            let known = names.get(&text[1..]);
            known.cloned().ok_or_else(|| format!("{text} has no value yet"))?
        }
        Value::Array(items) => {
            items.iter().map(|item| resolved(item, names)).collect::<Result<_, _>>()?
        }
        Value::Object(fields) => {
            let field =
                |(key, value): (&String, &Value)| Ok((key.clone(), resolved(value, names)?));
            Value::Object(fields.iter().map(field).collect::<Result<_, String>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    })
}

/// Compares field by field. `"*"` takes anything, `"$name"` the value of that name, which it gets
/// here if it has none, and `{"not": …}` anything else.
pub(crate) fn matches(pattern: &Value, actual: &Value, names: &mut Names) -> Result<(), String> {
    let differs = || format!("{pattern} expected, {actual} came");
    match (pattern, actual) {
        (Value::String(any), _) if any == "*" => Ok(()),
        (Value::String(text), _) if text.starts_with('$') => {
            let known = names.entry(text[1..].to_owned()).or_insert_with(|| actual.clone());
            if known == actual { Ok(()) } else { Err(format!("{text} is {known}, {actual} came")) }
        }
        (Value::Object(fields), _) if fields.len() == 1 && fields.contains_key("not") => {
            if resolved(&fields["not"], names)? == *actual {
                Err(differs())
            } else {
                Ok(())
            }
        }
        (Value::Array(items), Value::Array(came)) if items.len() == came.len() => {
            items.iter().zip(came).try_for_each(|(item, came)| matches(item, came, names))
        }
        (Value::Object(fields), Value::Object(came)) if fields.len() == came.len() => fields
            .iter()
            .try_for_each(|(key, field)| matches(field, came.get(key).ok_or_else(differs)?, names)),
        _ if pattern == actual => Ok(()),
        _ => Err(differs()),
    }
}
