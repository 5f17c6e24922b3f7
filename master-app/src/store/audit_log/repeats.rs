//! Repeated occasions become few lines: the first, and from then on one each time that their number
//! has doubled.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Occasions that are counted at once; beyond, the one that was quiet for longest is told and
/// forgotten.
const MAX_COUNTED: usize = 256;
/// After this long without another one the next is a first one again.
const QUIET_MS: u64 = 600_000;

/// An occasion that came more than once: the same thing of the same device from the same place.
type Subject = (String, String, String);

#[derive(Debug)]
struct Series {
    first_ms: u64,
    last_ms: u64,
    count: u64,
    /// Repeats of which the record knows.
    told: u64,
    last: Map<String, Value>,
}

impl Series {
    fn tell(&mut self) -> Map<String, Value> {
        self.told = self.count;
        let mut line = self.last.clone();
        line.insert("at_ms".into(), self.last_ms.into());
        line.insert("first_ms".into(), self.first_ms.into());
        line.insert("count".into(), self.count.into());
        line
    }
}

/// The lines that are counted at the moment.
#[derive(Debug, Default)]
pub(super) struct Repeats(BTreeMap<Subject, Series>);

fn subject(line: &Map<String, Value>) -> Subject {
    let field = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    (field("event"), field("public_id"), field("address"))
}

impl Repeats {
    /// The lines that an occasion adds to the record.
    pub(super) fn take(
        &mut self,
        at_ms: u64,
        mut line: Map<String, Value>,
    ) -> Vec<Map<String, Value>> {
        let mut lines = self.end_quiet(at_ms);
        let subject = subject(&line);
        if let Some(series) = self.0.get_mut(&subject) {
            (series.last_ms, series.last) = (at_ms, line);
            series.count += 1;
            if series.count >= series.told * 2 {
                lines.push(series.tell());
            }
            return lines;
        }
        if self.0.len() >= MAX_COUNTED {
            lines.extend(self.end_longest_quiet());
        }
        let last = line.clone();
        self.0.insert(subject, Series { first_ms: at_ms, last_ms: at_ms, count: 1, told: 1, last });
        line.insert("at_ms".into(), at_ms.into());
        lines.push(line);
        lines
    }

    /// Everything that the record does not know yet.
    pub(super) fn finish(&mut self) -> Vec<Map<String, Value>> {
        let all = std::mem::take(&mut self.0).into_values();
        all.filter(|series| series.count > series.told).map(|mut series| series.tell()).collect()
    }

    fn end_quiet(&mut self, now_ms: u64) -> Vec<Map<String, Value>> {
        let is_quiet = |series: &Series| {
            series.last_ms.saturating_add(QUIET_MS) < now_ms || series.last_ms > now_ms
        };
        let ended = self.0.extract_if(.., |_, series| is_quiet(series)).map(|(_, series)| series);
        ended.filter(|series| series.count > series.told).map(|mut series| series.tell()).collect()
    }

    fn end_longest_quiet(&mut self) -> Option<Map<String, Value>> {
        let oldest = self
            .0
            .iter()
            .min_by_key(|(_, series)| series.last_ms)
            .map(|(subject, _)| subject.clone())?;
        let mut series = self.0.remove(&oldest)?;
        (series.count > series.told).then(|| series.tell())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn renamed(device: u32, name: &str) -> Map<String, Value> {
        let line = json!({ "event": "renamed", "public_id": device.to_string(), "name": name });
        line.as_object().unwrap().clone()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_as_their_number_doubles() {
        let mut repeats = Repeats::default();
        let mut lines = Vec::new();
        for n in 1..=1_000u64 {
            lines.extend(repeats.take(n, renamed(1, &n.to_string())));
        }
        lines.extend(repeats.finish());
        assert_eq!((lines.len(), &lines[0]["name"]), (11, &json!("1")));
        let last = lines.last().unwrap();
        let told = [&last["first_ms"], &last["at_ms"], &last["count"], &last["name"]];
        assert_eq!(told, [&json!(1), &json!(1_000), &json!(1_000), &json!("1000")]);
    }

    #[test]
    fn after_a_pause_the_next_is_a_first_one_and_what_is_counted_is_bounded() {
        let mut repeats = Repeats::default();
        repeats.take(1, renamed(1, "a"));
        repeats.take(2, renamed(1, "b"));
        repeats.take(3, renamed(1, "c"));
        let lines = repeats.take(QUIET_MS + 4, renamed(2, "d"));
        assert_eq!(lines.len(), 2, "the third of the first, and the other: {lines:?}");
        assert_eq!((&lines[0]["count"], &lines[0]["at_ms"]), (&json!(3), &json!(3)));
        for n in 0..10_000 {
            repeats.take(QUIET_MS + 5, renamed(n, "e"));
        }
        assert_eq!(repeats.0.len(), MAX_COUNTED);
    }
}
