//! Which actions are being run again, by whom they are awaited, and who of them awaits whom.

use super::{End, Maker};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// The runs of one server. A run goes on for as long as somebody awaits it.
#[derive(Default)]
pub(super) struct Running(Mutex<Table>);

#[derive(Default)]
struct Table {
    runs: HashMap<Maker, Run>,
    begun: u64,
}

struct Run {
    number: u64,
    end: WeakShared<BoxFuture<'static, End>>,
    /// Whose outputs it awaits.
    awaits: Vec<Maker>,
}

/// The way to the end of a run.
pub(super) enum Joined {
    /// Await it.
    Run(Shared<BoxFuture<'static, End>>),
    /// It awaits, by whatever detours, whoever wanted to join.
    Circle,
}

impl Running {
    /// Joins the run of `maker` on behalf of `by`, an action that runs as well; begins it where there is none.
    pub(super) fn join(
        self: &Arc<Self>,
        by: Option<&Maker>,
        maker: &Maker,
        begin: impl FnOnce() -> BoxFuture<'static, End>,
    ) -> Joined {
        let mut table = self.0.lock();
        if let Some(by) = by {
            if table.awaits(maker, by) {
                return Joined::Circle;
            }
            if let Some(run) = table.runs.get_mut(by) {
                run.awaits.push(maker.clone());
            }
        }
        if let Some(end) = table.runs.get(maker).and_then(|run| run.end.upgrade()) {
            return Joined::Run(end);
        }
        table.begun += 1;
        let number = table.begun;
        let over = Over { running: self.clone(), maker: maker.clone(), number };
        let run = begin();
        let end = async move {
            let _over = over;
            run.await
        };
        let end = end.boxed().shared();
        let weak = end.downgrade().expect("it was made this moment and never polled");
        table.runs.insert(maker.clone(), Run { number, end: weak, awaits: Vec::new() });
        Joined::Run(end)
    }

    /// `by` does not await `maker` any longer.
    pub(super) fn leave(&self, by: Option<&Maker>, maker: &Maker) {
        let mut table = self.0.lock();
        if let Some(run) = by.and_then(|by| table.runs.get_mut(by))
            && let Some(at) = run.awaits.iter().position(|awaited| awaited == maker)
        {
            run.awaits.swap_remove(at);
        }
    }
}

impl Table {
    /// Whether `from` is `to`, or awaits it, by whatever detours.
    fn awaits(&self, from: &Maker, to: &Maker) -> bool {
        let (mut seen, mut pending) = (Vec::new(), vec![from]);
        while let Some(maker) = pending.pop() {
            if maker == to {
                return true;
            }
            if !seen.contains(&maker) {
                seen.push(maker);
                pending.extend(self.runs.get(maker).into_iter().flat_map(|run| &run.awaits));
            }
        }
        false
    }
}

/// Takes a run off the table when it ends or is given up, which happens where nothing can be awaited.
struct Over {
    running: Arc<Running>,
    maker: Maker,
    number: u64,
}

impl Drop for Over {
    fn drop(&mut self) {
        let mut table = self.running.0.lock();
        // Another run of the same action may have begun since this one was given up.
        if table.runs.get(&self.maker).is_some_and(|run| run.number == self.number) {
            table.runs.remove(&self.maker);
        }
    }
}
