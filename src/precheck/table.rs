//! Tables in text: rows, columns, names of columns, small counts, identifiers, what may be a row for each person.
//!
//! Takes the bytes of a text; gives what kind of table it is, and findings; trusts nothing: rows may be of any length and number;
//! refuses nothing: what is no table is none. Only whole numbers are looked at as counts: percentages, means and rates are not.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use csv::{ByteRecord, ReaderBuilder};
use serde::{Deserialize, Serialize};

use super::finding::Findings;
use super::identifiers::Numbers;
use super::rules::RuleName;

/// No more columns are looked at.
const COLUMNS: usize = 500;
/// How many names of columns are told, and how long.
const NAMES: usize = 50;
/// No longer name is told, in characters.
const NAME: usize = 40;
/// Values are told apart in so many rows.
const TOLD_APART: u64 = 20_000;

/// What a table is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Rows below the names of the columns.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Their names, if the first row has names.
    pub header: Vec<String>,
}

/// One column, as its rows are read.
#[derive(Debug, Default)]
struct Column {
    name: String,
    values: u64,
    whole: u64,
    small: u64,
    numbers: Numbers,
    /// Hashes of its values; none once a value came twice.
    distinct: Option<HashSet<u64>>,
    is_count: bool,
}

/// Looks at a text that may be a table; `ending` is that of its name.
pub fn table(bytes: &[u8], ending: &str, findings: &mut Findings<'_>) -> Option<Table> {
    let delimiter = match (delimiter(bytes), ending) {
        (Some(delimiter), _) => delimiter,
        (None, ".csv") => b',',
        (None, ".tsv") => b'\t',
        (None, _) => return None,
    };
    let rules = findings.rules();
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter).flexible(true).has_headers(false).from_reader(without_mark(bytes));
    let hasher = RandomState::new();
    let mut record = ByteRecord::new();
    let (mut rows, mut has_names) = (0_u64, false);
    let mut columns: Vec<Column> = Vec::new();
    while matches!(reader.read_byte_record(&mut record), Ok(true)) {
        if columns.is_empty() {
            has_names = !record.iter().any(|field| number(field).is_some());
            columns =
                record.iter().take(COLUMNS).enumerate().map(|(at, field)| named(at, field, has_names, rules)).collect();
            if has_names {
                continue;
            }
        }
        rows += 1;
        for (column, field) in columns.iter_mut().zip(record.iter()) {
            column.see(field, rows, &hasher, (rules.threshold, rules.zero));
        }
    }
    if columns.is_empty() {
        return None;
    }
    tell(&columns, rows, has_names, findings);
    let header =
        columns.iter().filter(|_| has_names).take(NAMES).map(|column| column.name.chars().take(NAME).collect());
    Some(Table { rows, columns: u64::try_from(columns.len()).unwrap_or(u64::MAX), header: header.collect() })
}

/// Without the mark of its encoding that spreadsheets put at the begin.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The delimiter that all of the first lines have as often; none: it is no table.
fn delimiter(bytes: &[u8]) -> Option<u8> {
    let head = bytes.get(..bytes.len().min(64 << 10)).unwrap_or_default();
    let whole = head.len() == bytes.len();
    let mut lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    if !whole {
        lines.pop();
    }
    lines.retain(|line| !line.trim_ascii().is_empty());
    lines.truncate(20);
    if lines.len() < 2 {
        return None;
    }
    let count = |line: &[u8], delimiter: u8| {
        let mut quoted = false;
        let outside = line.iter().filter(|byte| {
            quoted ^= **byte == b'"';
            !quoted && **byte == delimiter
        });
        outside.count()
    };
    let same = |delimiter: &u8| {
        let first = lines.first().map_or(0, |line| count(line, *delimiter));
        (first > 0 && lines.iter().all(|line| count(line, *delimiter) == first)).then_some((first, *delimiter))
    };
    [b',', b'\t', b';', b'|'].iter().filter_map(same).max_by_key(|(count, _)| *count).map(|(_, delimiter)| delimiter)
}

fn number(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

fn named(at: usize, field: &[u8], has_names: bool, rules: &super::rules::Rules) -> Column {
    let name = if has_names { String::from_utf8_lossy(field).trim().to_owned() } else { format!("{}", at + 1) };
    let first = words(&name).into_iter().next().unwrap_or_default();
    let is_count = !has_names || !rules.not_counts.contains(&first);
    Column { name, is_count, distinct: Some(HashSet::new()), ..Column::default() }
}

/// The words of a name, in lower case: `NHS_number`, `nhsNumber` and `nhs-number` are two.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut small = false;
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && small);
        small = c.is_lowercase();
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether the name of a column says that it holds identifiers.
fn is_id(name: &str, id_columns: &[String]) -> bool {
    let words = words(name);
    let joined = words.concat();
    id_columns.iter().any(|id| {
        let id: Vec<&str> = id.split(' ').collect();
        let ends = words.len() >= id.len() && words.iter().rev().zip(id.iter().rev()).all(|(word, id)| word == id);
        // One word ends many names: `variable name` is none.
        joined == id.concat() || (ends && (id.len() > 1 || words.len() == 1))
    })
}

impl Column {
    fn see(&mut self, field: &[u8], rows: u64, hasher: &RandomState, (threshold, zero): (u64, bool)) {
        let field = field.trim_ascii();
        if rows > TOLD_APART {
            self.distinct = None;
        }
        if let Some(seen) = &mut self.distinct
            && !seen.insert(hasher.hash_one(field))
        {
            self.distinct = None;
        }
        if field.is_empty() {
            return;
        }
        self.values += 1;
        let Ok(text) = std::str::from_utf8(field) else { return };
        self.numbers.see(text);
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.len() <= 18 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            self.whole += 1;
            let value: u64 = digits.parse().unwrap_or(u64::MAX);
            self.small += u64::from(value < threshold && (value > 0 || zero));
        }
    }
}

fn tell(columns: &[Column], rows: u64, has_names: bool, findings: &mut Findings<'_>) {
    let rules = findings.rules();
    if rows > rules.rows {
        findings.add(RuleName::Rows, format!("{rows} rows; the limit is {}", rules.rows));
    }
    let ids: Vec<&str> =
        columns.iter().filter(|c| has_names && is_id(&c.name, &rules.id_columns)).map(|c| c.name.as_str()).collect();
    if !ids.is_empty() {
        findings.add(RuleName::IdColumn, format!("named like an identifier: {}", listed("column", &ids)));
    }
    for column in columns {
        column.numbers.tell(&format!("column {}: ", column.name), Some(column.values), findings);
        // Four of five values: totals may have a mark beside them.
        if column.is_count && column.small > 0 && column.whole * 5 >= column.values * 4 {
            let from = u64::from(!rules.zero);
            let to = rules.threshold.saturating_sub(1);
            let said = format!("column {}: {} whole numbers from {from} to {to}", column.name, column.small);
            findings.add(RuleName::SmallCount, said);
        }
    }
    let each: Vec<&str> = columns.iter().filter(|column| column.distinct.is_some()).map(|c| c.name.as_str()).collect();
    if rows >= rules.row_level && !each.is_empty() {
        findings.add(RuleName::RowLevel, format!("{rows} rows, and no value twice in {}", listed("column", &each)));
    }
}

/// The first few of perhaps many names.
fn listed(what: &str, names: &[&str]) -> String {
    let more = names.len().saturating_sub(5);
    let first: Vec<String> = names.iter().take(5).map(|name| name.chars().take(NAME).collect()).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    let and = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{what}{plural} {}{and}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::rules::{Rules, Site};
    use proptest::prelude::*;

    fn found(text: &[u8], ending: &str) -> (Option<Table>, Vec<RuleName>) {
        let rules = Rules::of(&Site { row_level: Some(20), rows: Some(50), ..Site::default() }).unwrap();
        let mut findings = Findings::new(&rules);
        let table = table(text, ending, &mut findings);
        (table, findings.end().into_iter().map(|finding| finding.rule).collect())
    }

    fn rules(text: &str) -> Vec<RuleName> {
        found(text.as_bytes(), ".csv").1
    }

    #[test]
    fn counts_below_the_threshold_are_told_and_ages_coefficients_and_percentages_are_not() {
        assert_eq!(rules("ward,deaths\na,3\nb,120\nc,7\n"), [RuleName::SmallCount]);
        assert_eq!(rules("ward;deaths\n\"a;b\";3\nb;120\n"), [RuleName::SmallCount]);
        assert_eq!(rules("1,2\n3,4\n"), [RuleName::SmallCount, RuleName::SmallCount], "a table without names");
        assert_eq!(rules("patients,n\na,9\nb,100\n"), [RuleName::SmallCount], "p is a word, not a letter");
        for text in [
            "age_group,n\n1,100\n2,300\n",
            "term,p\nage,0\nsex,1\n",
            "ward,pct\na,1.3\nb,98.7\n",
            "ward,n\na,0\nb,10\n",
            "Year,rate\n1,2.5\n2,3.5\n",
        ] {
            assert!(rules(text).is_empty(), "{text}: {:?}", rules(text));
        }
    }

    #[test]
    fn columns_with_identifiers_are_told_by_name_and_by_content() {
        for name in
            ["nhs_number", "NHS No", "nhsNumber", "mother-nhs-number", "Date of Birth", "CHI", "postcode", "Patient ID"]
        {
            assert!(rules(&format!("{name},x\na,b\nc,d\n")).contains(&RuleName::IdColumn), "{name}");
        }
        for name in ["variable name", "machine", "chi squared", "address count", "n"] {
            assert!(!rules(&format!("{name},x\na,b\nc,d\n")).contains(&RuleName::IdColumn), "{name}");
        }
        let numbers = "x1,y\n9434765919,a\n4010232137,b\n4505577104,c\n";
        assert!(rules(numbers).contains(&RuleName::NhsNumbers));
        assert!(rules("x1,y\n9434765919,a\n1000000000,b\n2000000000,c\n").contains(&RuleName::NhsNumber));
        assert!(
            found(b"x1\n9434765919\n4010232137\n4505577104\n", ".csv").1.contains(&RuleName::NhsNumbers),
            "one column"
        );
    }

    #[test]
    fn long_tables_and_those_with_a_row_for_each_person_are_told() {
        let rows = |n: usize| (0..n).map(|at| format!("{at}.5,{}\n", at % 3)).collect::<String>();
        assert_eq!(rules(&format!("bmi,model\n{}", rows(19))), []);
        assert_eq!(rules(&format!("bmi,model\n{}", rows(20))), [RuleName::RowLevel]);
        assert_eq!(rules(&format!("bmi,model\n{}", rows(51))), [RuleName::Rows, RuleName::RowLevel]);
        let (table, _) = found(format!("\u{feff}bmi,model\n{}", rows(3)).as_bytes(), ".csv");
        assert_eq!(table.unwrap(), Table { rows: 3, columns: 2, header: vec!["bmi".to_owned(), "model".to_owned()] });
    }

    #[test]
    fn prose_is_no_table() {
        for text in ["One line, with a comma.\nAnd another one.\n", "", "a,b\n", "x\ny\nz\n"] {
            assert_eq!(found(text.as_bytes(), ".txt").0, None, "{text}");
        }
        assert!(found(b"a\tb\n1\t2\n", ".txt").0.is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_for_a_table(bytes in any::<Vec<u8>>(), text in "[a-c0-9,;\"\n\t|]{0,200}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                found(bytes, ".csv");
                found(bytes, ".txt");
            }
        }
    }
}
