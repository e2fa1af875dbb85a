//! The rule of a call that depends on its arguments, as cases of which exactly one holds.
//!
//! Takes a `Rule`; gives conditions with one answer each; trusts the profile's own checks; refuses nothing.
//!
//! A rule is read in order: the first condition that holds decides. `config.json` has no order, and no "otherwise" but one
//! for all calls; which of two entries decides that both hold is nowhere said (seccomp_rule_add(3)). It has "equal" and
//! "masked equal"; "not equal" compares 64 bits of which the kernel uses 32, so that a bit above would make a forbidden value
//! look like another. So the bits that a rule looks at become a binary tree, argument by argument, and each leaf is a case.

use std::cmp::Reverse;

use super::UNKNOWN;
use super::groups::{Answer, Comparison, Condition, Rule};

/// How many arguments a system call has at most.
const ARGUMENTS: usize = 6;

/// What is known of each argument so far: which bits, and their values.
type Path = [(u64, u64); ARGUMENTS];

/// The cases of a rule; what no case holds for is unknown, as is all that is named nowhere.
pub(super) fn cases(rule: &Rule) -> Vec<(Condition, Answer)> {
    let mut out = Vec::new();
    descend(rule, &bits(rule), [(0, 0); ARGUMENTS], &mut out);
    out.retain(|(_, answer)| *answer != Answer::Errno(UNKNOWN));
    out
}

/// The bits that a rule looks at: by argument, then those first that most conditions look at, so that the tree is small.
fn bits(rule: &Rule) -> Vec<(u8, u32)> {
    let looks_at = |arg: u8, bit: u32| {
        let comparisons = rule.listed().flat_map(|(condition, _)| &condition.all);
        comparisons.filter(|one| one.arg == arg && one.mask >> bit & 1 == 1).count()
    };
    let all = (0_u8..6).flat_map(|arg| (0..u64::BITS).map(move |bit| (arg, bit)));
    let mut counted: Vec<(u8, u32, usize)> = all.map(|(arg, bit)| (arg, bit, looks_at(arg, bit))).collect();
    counted.retain(|(.., count)| *count > 0);
    counted.sort_by_key(|(arg, bit, count)| (*arg, Reverse(*count), Reverse(*bit)));
    counted.into_iter().map(|(arg, bit, _)| (arg, bit)).collect()
}

/// What a path says of a condition.
enum Found {
    Holds,
    Fails,
    Open,
}

fn found(condition: &Condition, path: &Path) -> Found {
    let known = |one: &Comparison| path.get(usize::from(one.arg)).copied().unwrap_or_default();
    let differs = |one: &Comparison| {
        let (mask, value) = known(one);
        (value ^ one.value) & mask & one.mask != 0
    };
    if condition.all.iter().any(differs) {
        Found::Fails
    } else if condition.all.iter().all(|one| one.mask & !known(one).0 == 0) {
        Found::Holds
    } else {
        Found::Open
    }
}

/// Decides, or asks for one more bit.
fn descend(rule: &Rule, bits: &[(u8, u32)], path: Path, out: &mut Vec<(Condition, Answer)>) {
    let mut open = Vec::new();
    let mut answer = rule.otherwise;
    for (condition, its) in rule.listed() {
        match found(condition, &path) {
            Found::Fails => {}
            Found::Open => open.push(condition),
            Found::Holds => {
                answer = its;
                break;
            }
        }
    }
    let undecided = |(arg, bit): &&(u8, u32)| {
        let known = path.get(usize::from(*arg)).is_some_and(|(mask, _)| mask >> *bit & 1 == 1);
        let mut looking = open.iter().flat_map(|condition| &condition.all);
        !known && looking.any(|one| one.arg == *arg && one.mask >> *bit & 1 == 1)
    };
    match bits.iter().find(undecided) {
        None => out.push((case(&path), answer)),
        Some((arg, bit)) => {
            for value in [0, 1_u64 << bit] {
                let mut path = path;
                if let Some((mask, known)) = path.get_mut(usize::from(*arg)) {
                    *mask |= 1 << bit;
                    *known |= value;
                }
                descend(rule, bits, path, out);
            }
        }
    }
}

fn case(path: &Path) -> Condition {
    let known = (0_u8..).zip(path).filter(|(_, (mask, _))| *mask != 0);
    Condition { all: known.map(|(arg, (mask, value))| Comparison { arg, mask: *mask, value: *value }).collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::super::groups::Profile;
    use super::*;

    type Cases = Vec<(Condition, Answer)>;

    fn rules() -> Vec<Rule> {
        [Profile::load(), Profile::relay()].into_iter().flat_map(|profile| profile.unwrap().conditional).collect()
    }

    fn rule_of(call: &str) -> Rule {
        rules().into_iter().find(|rule| rule.syscalls.iter().any(|name| name == call)).unwrap()
    }

    /// What the cases say, which must not contradict each other.
    fn by_cases(cases: &[(Condition, Answer)], args: [u64; 6]) -> Answer {
        let held: Vec<Answer> = cases.iter().filter(|(case, _)| case.holds(args)).map(|(_, answer)| *answer).collect();
        assert!(held.len() < 2, "{args:x?}: {held:?}");
        held.first().copied().unwrap_or(Answer::Errno(UNKNOWN))
    }

    #[test]
    fn for_the_values_of_a_rule_and_their_neighbours_its_cases_say_what_it_says() {
        for rule in rules() {
            let cases = cases(&rule);
            let looked_at = bits(&rule);
            for (condition, _) in rule.listed() {
                for rest in [0, u64::MAX] {
                    let mut args = [rest; 6];
                    for one in &condition.all {
                        args[usize::from(one.arg)] = rest & !one.mask | one.value;
                    }
                    assert_eq!(by_cases(&cases, args), rule.answer(args), "{}: {args:x?}", rule.name);
                    for (first, second) in looked_at.iter().flat_map(|b| looked_at.iter().map(move |c| (b, c))) {
                        let mut args = args;
                        args[usize::from(first.0)] ^= 1 << first.1;
                        args[usize::from(second.0)] ^= 1 << second.1;
                        assert_eq!(by_cases(&cases, args), rule.answer(args), "{}: {args:x?}", rule.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_mode_is_looked_at_only_where_a_file_may_be_made() {
        let cases = cases(&rule_of("openat"));
        // Neither O_CREAT nor O_TMPFILE: one case, and nothing about the mode.
        assert_eq!(cases.len(), 7, "{cases:?}");
        let without = Comparison { arg: 2, mask: 0o20000100, value: 0 };
        assert!(cases.contains(&(Condition { all: vec![without] }, Answer::Allow)));
        assert!(cases.iter().filter(|(case, _)| case.all.len() == 2).count() == 6);
    }

    #[test]
    fn the_number_of_cases_stays_small() {
        let most = rules().iter().map(|rule| cases(rule).len()).max();
        assert!(most < Some(150), "{most:?}");
        assert_eq!(cases(&rule_of("clone")).len(), 8);
        assert_eq!(cases(&rule_of("fchmod")).len(), 3);
    }

    proptest::proptest! {
        #[test]
        fn for_any_arguments_the_cases_say_what_the_rule_says(
            args in proptest::array::uniform6(proptest::num::u64::ANY),
            few in proptest::array::uniform6(0_u64..300),
        ) {
            static RULES: LazyLock<Vec<(Rule, Cases)>> =
                LazyLock::new(|| rules().into_iter().map(|rule| (rule.clone(), cases(&rule))).collect());
            for (rule, cases) in RULES.iter() {
                for args in [args, few, [2, args[1], few[2], 0, 0, 0], [10, 0, few[1], 0, 0, 0]] {
                    proptest::prop_assert_eq!(by_cases(cases, args), rule.answer(args), "{}", rule.name);
                }
            }
        }
    }
}
