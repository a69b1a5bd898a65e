// Each bench uses a part of it.
#![allow(dead_code, unreachable_pub)]

//! Contestants that do the same work in turn, so that a busy machine is as unjust to one as to the
//! other.

use std::time::Duration;

use crate::common::Node;
use crate::common::time::Time;

/// One run: what it took, and how many VIPs came out wrong.
pub type Run = (Time, usize);

/// Who takes longer than this is not asked as often.
const SLOW: Duration = Duration::from_secs(3);

/// Who takes less than this is so easily disturbed that all are asked more often…
const BRIEF: Duration = Duration::from_millis(2);

/// …by this factor.
const OFTEN: usize = 7;

/// Someone who does the work: on a fresh link of this index.
pub struct Contestant<'a> {
    pub name: &'static str,
    run: Box<dyn FnMut(u32) -> Run + 'a>,
}

pub fn contestant<'a>(name: &'static str, run: impl FnMut(u32) -> Run + 'a) -> Contestant<'a> {
    Contestant {
        name,
        run: Box::new(run),
    }
}

/// What became of a contestant.
#[derive(Clone, Debug)]
pub struct Figures {
    pub name: &'static str,
    /// Sorted, and without the first, which only warms.
    times: Vec<Duration>,
    cpu: Vec<Duration>,
    /// The VIPs that came out wrong, in the worst run.
    pub wrong: usize,
}

impl Figures {
    pub fn median(&self) -> Duration {
        self.times[self.times.len() / 2]
    }

    pub fn cpu(&self) -> Duration {
        self.cpu[self.cpu.len() / 2]
    }

    pub fn fastest(&self) -> Duration {
        self.times[0]
    }

    pub fn slowest(&self) -> Duration {
        self.times[self.times.len() - 1]
    }

    /// One of the floor's ways: the cheapest of them is what the others are compared with.
    pub fn is_floor(&self) -> bool {
        self.name.starts_with("floor")
    }
}

/// The cheapest floor.
pub fn floor(figures: &[Figures]) -> Option<&Figures> {
    figures
        .iter()
        .filter(|one| one.is_floor())
        .min_by_key(|one| one.median())
}

pub fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64()
}

/// Lets each run so often, and brief ones more often, on a fresh link each time where there is a
/// `node` to make it on. With no runs: once, for its function only.
pub fn race(
    node: Option<&Node>,
    runs: usize,
    mut contestants: Vec<Contestant<'_>>,
) -> Vec<Figures> {
    let count = contestants.len();
    let mut figures: Vec<Figures> = contestants
        .iter()
        .map(|one| Figures {
            name: one.name,
            times: Vec::new(),
            cpu: Vec::new(),
            wrong: 0,
        })
        .collect();
    let mut rounds = runs;
    let mut round = 0;
    while round <= rounds {
        for place in 0..count {
            // Nobody is always behind the same one.
            let place = if round % 2 == 0 {
                place
            } else {
                count - 1 - place
            };
            let figure = &mut figures[place];
            if figure.times.len() > 1 && figure.times[0] > SLOW {
                continue;
            }
            let link = node.map_or(0, Node::fresh_link);
            let (time, wrong) = (contestants[place].run)(link);
            figure.wrong = figure.wrong.max(wrong);
            if round > 0 || runs == 0 {
                figure.times.push(time.wall);
                figure.cpu.push(time.cpu);
            } else if time.wall < BRIEF {
                rounds = runs * OFTEN;
            }
        }
        round += 1;
    }
    for one in &mut figures {
        one.times.sort_unstable();
        one.cpu.sort_unstable();
    }
    figures
}
