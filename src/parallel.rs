//! Work on a long list, on all processors at once.
//!
//! Takes the items and what to do with a part of them; gives the results in the order of the parts. No thread is left when it
//! returns: what forks afterwards has one (`fork(2)`).

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// Beginning a thread is worth its while from so many items on.
const LEAST: usize = 5_000;

/// Does `work` on as many parts of `items` as there are processors; a short list is one part.
pub fn parts<'a, T: Sync, U: Send>(items: &'a [T], work: impl Fn(&'a [T]) -> U + Sync) -> Vec<U> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let count = processors.min(items.len() / LEAST).max(1);
    let mut parts = items.chunks(items.len().div_ceil(count).max(1));
    let Some(first) = parts.next() else { return Vec::new() };
    thread::scope(|scope| {
        // Where the caller may have no more threads (`RLIMIT_NPROC`) this one does it all.
        let others: Vec<_> =
            parts.map(|part| (part, thread::Builder::new().spawn_scoped(scope, || work(part)))).collect();
        let mut done = vec![work(first)];
        done.extend(others.into_iter().map(|(part, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => work(part),
        }));
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_in_order() {
        for count in [0, 1, LEAST, 10 * LEAST + 7] {
            let items: Vec<usize> = (0..count).collect();
            let parts = parts(&items, <[usize]>::to_vec);
            assert!(parts.len() <= (count / LEAST).max(1));
            assert_eq!(parts.concat(), items);
        }
    }
}
