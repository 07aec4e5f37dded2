//! Appending to segments: one thread takes whatever waits, writes it in one go, makes it durable once for all, puts it
//! into the index, and only then answers. While the disk is busy with one group, the next one gathers.
//!
//! After a write that failed, the segment is left as it is and another one begun: what the disk made of the failed
//! write is unknown, and nothing in it was acknowledged.

use super::{
    Shared,
    files::storage_error,
    frame::{HEADER, Header, Place, Role},
    key::Key,
    leases::Stamp,
    medium::Disk,
    segments::FIRST,
    squeeze::may_get_smaller,
    table::{Entry, Form},
};
use bytes::Bytes;
use mortar_model::{Encoding, Error, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::{io, sync::Arc};
use tokio::sync::oneshot;

/// Bytes that are written in one go.
const GROUP: usize = 16 << 20;

/// One record to be appended.
pub(super) struct Append {
    pub role: Role,
    pub key: Key,
    pub encoding: Encoding,
    /// Of the content.
    pub size: u64,
    pub payload: Bytes,
    /// What its file takes, in blocks; 0 without a file.
    pub blocks: u32,
    pub stamp: Stamp,
    /// Nobody need try to make its file smaller.
    pub incompressible: bool,
    /// Only if the index still points here: a copy of an older record, whose sequence it keeps.
    pub instead_of: Option<(Place, u64)>,
}

/// What was made of it.
pub(super) type Appended = Result<Option<Place>>;

struct Waiting {
    append: Append,
    answer: oneshot::Sender<Appended>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    closed: bool,
}

/// What waits to be appended.
#[derive(Default)]
pub(super) struct Log {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Log {
    /// Hands in what is to be appended. The answers come when all of it is durable and in the index: the place, or
    /// none where it was not needed.
    pub fn append(&self, appends: impl IntoIterator<Item = Append>) -> Vec<oneshot::Receiver<Appended>> {
        let mut queue = self.queue.lock();
        let hand_in = |append| {
            let (answer, receiver) = oneshot::channel();
            queue.waiting.push(Waiting { append, answer });
            receiver
        };
        let receivers = appends.into_iter().map(hand_in).collect();
        drop(queue);
        self.wake.notify_one();
        receivers
    }

    /// Lets the thread end when all that waits is done.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_one();
    }

    /// What waits, up to a group; none when closed.
    fn take(&self, most: usize) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            if queue.closed {
                return None;
            }
            self.wake.wait(&mut queue);
        }
        let mut length = 0;
        let fits = |waiting: &&Waiting| {
            length += HEADER + waiting.append.payload.len();
            length <= most
        };
        let count = queue.waiting.iter().take_while(fits).count().max(1);
        Some(queue.waiting.drain(..count).collect())
    }
}

/// The answer to what was handed in.
pub(super) async fn answered(receiver: oneshot::Receiver<Appended>) -> Appended {
    receiver.await.unwrap_or_else(|_| Err(shutting_down()))
}

/// As `answered`, on a thread that may block.
pub(super) fn answered_blocking(receiver: oneshot::Receiver<Appended>) -> Appended {
    receiver.blocking_recv().unwrap_or_else(|_| Err(shutting_down()))
}

fn shutting_down() -> Error {
    Error::new(Kind::Unavailable { message: "the store is being closed".into(), retry_after: None })
}

/// Runs the thread's work until the log is closed.
pub(super) fn run(shared: &Arc<Shared>, first_sequence: u64) {
    let mut writer = Writer { shared, segment: None, sequence: first_sequence, buffer: Vec::new() };
    let most = GROUP.min(shared.segment_size as usize);
    while let Some(group) = shared.log.take(most) {
        writer.write(group);
    }
}

struct Writer<'a> {
    shared: &'a Arc<Shared>,
    /// The segment that is appended to, and where; none before the first write and after one that failed.
    segment: Option<(u32, Arc<Disk>, u64)>,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Writer<'_> {
    fn write(&mut self, group: Vec<Waiting>) {
        let (needed, superfluous): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|waiting| self.is_needed(&waiting.append));
        superfluous.into_iter().for_each(|waiting| drop(waiting.answer.send(Ok(None))));
        if needed.is_empty() {
            return;
        }
        match self.commit(&needed) {
            Ok(places) => {
                for (waiting, (place, sequence)) in needed.into_iter().zip(places) {
                    let outcome = self.shared.enter(&waiting.append, place, sequence);
                    let outcome = outcome.map_err(|error| storage_error("writing the index", error));
                    let _ = waiting.answer.send(outcome);
                }
                if let Some((number, _, end)) = &self.segment {
                    self.shared.progress.lock().applied = (*number, *end);
                }
            }
            Err(error) => {
                self.segment = None;
                for waiting in needed {
                    let again = io::Error::new(error.kind(), error.to_string());
                    let _ = waiting.answer.send(Err(storage_error("writing a segment", again)));
                }
            }
        }
    }

    /// A blob that came meanwhile needs no second record.
    fn is_needed(&self, append: &Append) -> bool {
        let is_blob = append.key.space.function().is_some();
        if append.role != Role::Content || append.instead_of.is_some() || !is_blob {
            return true;
        }
        !self.shared.has(&append.key, append.size, append.stamp)
    }

    /// Writes a group and makes it durable. Where each record lies, and its sequence.
    fn commit(&mut self, group: &[Waiting]) -> io::Result<Vec<(Place, u64)>> {
        let (number, disk, start) = self.current()?;
        self.buffer.clear();
        let mut places = Vec::with_capacity(group.len());
        for Waiting { append, .. } in group {
            let place = Place { segment: number, offset: (start + self.buffer.len() as u64) as u32 };
            self.sequence += 1;
            let sequence = append.instead_of.map_or(self.sequence, |(_, sequence)| sequence);
            let header = Header {
                role: append.role,
                key: append.key,
                encoding: append.encoding,
                dead: false,
                sequence,
                size: append.size,
                stored: append.payload.len() as u32,
            };
            header.write(self.shared.secret, place, &[&append.payload], &mut self.buffer);
            places.push((place, sequence));
        }
        disk.write_at(&self.buffer, start)?;
        disk.sync()?;
        let end = start + self.buffer.len() as u64;
        self.shared.segments.set_length(number, end);
        let mut progress = self.shared.progress.lock();
        progress.appended += self.buffer.len() as u64;
        progress.sequence = self.sequence;
        drop(progress);
        self.segment = Some((number, disk, end));
        self.buffer.shrink_to(GROUP / 16);
        Ok(places)
    }

    fn current(&mut self) -> io::Result<(u32, Arc<Disk>, u64)> {
        let seal = std::mem::take(&mut self.shared.progress.lock().seal);
        match self.segment.take() {
            Some(segment) if segment.2 < self.shared.segment_size && !seal => Ok(segment),
            _ => {
                let (number, disk) = self.shared.segments.create()?;
                Ok((number, disk, FIRST))
            }
        }
    }
}

impl Shared {
    /// Puts a durable record into the index.
    fn enter(&self, append: &Append, place: Place, sequence: u64) -> io::Result<Option<Place>> {
        let form = match append.role {
            Role::Content => Form::Record,
            Role::File => Form::File,
            Role::Removed => return Ok(Some(place)),
        };
        let stored = if form == Form::File { append.blocks } else { append.payload.len() as u32 };
        let squeeze = may_get_smaller(form, append.encoding) && !append.incompressible;
        let entry = Entry { space: append.key.space, form, size: append.size, place, stored, squeeze };
        let mut entered = false;
        let before = self.table.update(&append.key, |present| {
            let touch = match (append.instead_of, present) {
                (Some((from, _)), Some((there, touch))) if there.place == from => touch,
                (Some(_), _) => return None,
                (None, Some((_, touch))) => append.stamp.apply(touch),
                (None, None) => append.stamp.fresh(),
            };
            entered = true;
            Some((entry, touch))
        })?;
        if entered {
            self.usage.replaced(before.as_ref(), Some(&entry));
        }
        tracing::trace!(key = ?append.key, sequence, entered, "appended");
        Ok(entered.then_some(place))
    }

    /// Appends one record.
    pub(super) async fn append(self: &Arc<Self>, append: Append) -> Appended {
        let length = (HEADER + append.payload.len()) as u64;
        let _room = self.reserve(length).await?;
        let mut receivers = self.log.append([append]);
        answered(receivers.pop().expect("one was handed in")).await
    }
}
