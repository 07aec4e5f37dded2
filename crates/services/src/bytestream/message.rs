//! WriteRequest, read as its bytes come: the messages of a stream are taken apart without being put together first.
//!
//! Content is passed on in the pieces in which it arrives, once the small fields of its message are known for certain.
//! That is so when content is the last field, which encoders that write fields by their numbers make it. Where fields
//! follow, content waits for the end of its message. Whatever else holds for protobuf holds here: fields come in any
//! order, the last one of a kind counts, unknown ones are skipped, and groups are too.

use super::{
    frame,
    varint::{Varint, WireType},
};
use bytes::{Buf, Bytes, BytesMut};
use mortar_model::{Error, Result};
use std::collections::VecDeque;

/// The longest resource name that is taken, in bytes.
const LONGEST_NAME: usize = 16 << 10;
/// Groups in groups that are skipped.
const DEEPEST_GROUP: usize = 64;

/// What comes of a stream of WriteRequests, in this order for each message: a head, any pieces of content, an end.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// All of a message but its content.
    Head(Head),
    /// The next bytes of its content.
    Data(Bytes),
    /// The message is over.
    End,
}

/// The small fields of a WriteRequest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// What is written; may be empty in all but the first message.
    pub resource_name: String,
    /// Where in the upload the content of this message begins.
    pub write_offset: i64,
    /// Nothing follows this message.
    pub finish_write: bool,
}

/// Takes a stream of WriteRequests in frames apart.
pub struct Parser {
    limit: usize,
    state: State,
    /// What is left of the message, in bytes.
    left: usize,
    head: Head,
    /// The head was given out: content is, too.
    open: bool,
    /// Content that waits for the end of its message.
    held: BytesMut,
    /// The fields of the groups that we are in, innermost last.
    groups: Vec<u32>,
    /// What was found and not given out yet.
    ready: VecDeque<Part>,
}

enum State {
    Header { bytes: [u8; frame::HEADER], have: usize },
    Key(Varint),
    Number(u32, Varint),
    Length(u32, Varint),
    Name { bytes: Vec<u8>, left: usize },
    Data { left: usize },
    Skip { left: usize },
}

const RESOURCE_NAME: u32 = 1;
const WRITE_OFFSET: u32 = 2;
const FINISH_WRITE: u32 = 3;
const DATA: u32 = 10;

const KEY: State = State::Key(Varint::START);
const START: State = State::Header { bytes: [0; frame::HEADER], have: 0 };

impl Parser {
    /// A parser that refuses messages of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: START,
            left: 0,
            head: Head::default(),
            open: false,
            held: BytesMut::new(),
            groups: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next part; none if more bytes are needed. What it takes of `input` is gone from it. After an error the
    /// parser is of no further use.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            if self.needs_input() && input.is_empty() {
                return Ok(None);
            }
            self.step(input)?;
        }
    }

    /// That the stream may end here.
    pub fn finish(&self) -> Result<()> {
        match self.state {
            State::Header { have: 0, .. } => Ok(()),
            _ => Err(malformed("the stream ends within it")),
        }
    }

    fn needs_input(&self) -> bool {
        match &self.state {
            State::Header { .. } | State::Number(..) | State::Length(..) => true,
            State::Key(_) => self.left > 0,
            State::Name { left, .. } | State::Data { left } | State::Skip { left } => *left > 0,
        }
    }

    /// Goes on by a byte of structure or by all the content at hand.
    fn step(&mut self, input: &mut Bytes) -> Result<()> {
        let state = std::mem::replace(&mut self.state, KEY);
        self.state = match state {
            State::Header { bytes, have } => self.header(bytes, have, input)?,
            State::Key(key) if self.left == 0 => self.end(key)?,
            State::Key(key) => match self.varint(key, input)? {
                Ok(key) => self.field(key)?,
                Err(key) => State::Key(key),
            },
            State::Number(field, number) => match self.varint(number, input)? {
                Ok(number) => self.number(field, number),
                Err(number) => State::Number(field, number),
            },
            State::Length(field, length) => match self.varint(length, input)? {
                Ok(length) => self.length(field, length)?,
                Err(length) => State::Length(field, length),
            },
            State::Name { bytes, left: 0 } => self.name(bytes)?,
            State::Name { mut bytes, left } => {
                let piece = self.take(left, input);
                bytes.extend_from_slice(&piece);
                State::Name { bytes, left: left - piece.len() }
            }
            State::Data { left: 0 } | State::Skip { left: 0 } => KEY,
            State::Data { left } => {
                let piece = self.take(left, input);
                let left = left - piece.len();
                self.data(piece);
                State::Data { left }
            }
            State::Skip { left } => State::Skip { left: left - self.take(left, input).len() },
        };
        Ok(())
    }

    fn header(&mut self, mut bytes: [u8; frame::HEADER], have: usize, input: &mut Bytes) -> Result<State> {
        bytes[have] = input.get_u8();
        if have + 1 < bytes.len() {
            return Ok(State::Header { bytes, have: have + 1 });
        }
        self.left = frame::length(bytes, self.limit)?;
        Ok(KEY)
    }

    /// One byte more of a number; the number, when that was its last.
    fn varint(&mut self, mut number: Varint, input: &mut Bytes) -> Result<Result<u64, Varint>> {
        if self.left == 0 {
            return Err(malformed("it ends within a number"));
        }
        self.left -= 1;
        Ok(number.push(input.get_u8())?.ok_or(number))
    }

    fn field(&mut self, key: u64) -> Result<State> {
        let key = u32::try_from(key).map_err(|_| malformed("a field has too large a number"))?;
        let (field, wire) = (key >> 3, WireType::of(key)?);
        if field == 0 {
            return Err(malformed("a field has the number 0"));
        }
        // What a group holds is the group's own.
        let known = if self.groups.is_empty() { field } else { 0 };
        match (known, wire) {
            (WRITE_OFFSET | FINISH_WRITE, WireType::Varint) => Ok(State::Number(known, Varint::START)),
            (RESOURCE_NAME | DATA, WireType::Length) => Ok(State::Length(known, Varint::START)),
            (WRITE_OFFSET | FINISH_WRITE | RESOURCE_NAME | DATA, _) => {
                Err(malformed(&format!("its field {field} is of another type")))
            }
            (_, WireType::Varint) => Ok(State::Number(0, Varint::START)),
            (_, WireType::Length) => Ok(State::Length(0, Varint::START)),
            (_, WireType::Fixed64) => self.skip(8),
            (_, WireType::Fixed32) => self.skip(4),
            (_, WireType::GroupStart) if self.groups.len() == DEEPEST_GROUP => {
                Err(malformed("its groups are too deep"))
            }
            (_, WireType::GroupStart) => {
                self.groups.push(field);
                Ok(KEY)
            }
            (_, WireType::GroupEnd) => match self.groups.pop() {
                Some(begun) if begun == field => Ok(KEY),
                _ => Err(malformed("a group ends that did not begin")),
            },
        }
    }

    fn number(&mut self, field: u32, number: u64) -> State {
        match field {
            WRITE_OFFSET => self.head.write_offset = number.cast_signed(),
            FINISH_WRITE => self.head.finish_write = number != 0,
            _ => {}
        }
        KEY
    }

    fn length(&mut self, field: u32, length: u64) -> Result<State> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.left);
        let left = length.ok_or_else(|| malformed("a field is longer than the message"))?;
        match field {
            RESOURCE_NAME if left > LONGEST_NAME => {
                let message = format!("the resource name has {left} bytes; at most {LONGEST_NAME} are taken");
                Err(Error::invalid("resource_name", message))
            }
            RESOURCE_NAME => Ok(State::Name { bytes: Vec::with_capacity(left), left }),
            DATA => {
                self.held.clear();
                if left == self.left {
                    self.give_head();
                }
                Ok(State::Data { left })
            }
            _ => Ok(State::Skip { left }),
        }
    }

    fn name(&mut self, bytes: Vec<u8>) -> Result<State> {
        let name = String::from_utf8(bytes);
        self.head.resource_name =
            name.map_err(|_| Error::invalid("resource_name", "the resource name is not made of characters"))?;
        Ok(KEY)
    }

    fn skip(&self, left: usize) -> Result<State> {
        match left <= self.left {
            true => Ok(State::Skip { left }),
            false => Err(malformed("a field is longer than the message")),
        }
    }

    fn data(&mut self, piece: Bytes) {
        match self.open {
            true => self.ready.push_back(Part::Data(piece)),
            false => self.held.extend_from_slice(&piece),
        }
    }

    /// The end of a message.
    fn end(&mut self, key: Varint) -> Result<State> {
        if !key.is_start() || !self.groups.is_empty() {
            return Err(malformed("it ends too early"));
        }
        if !self.open {
            self.give_head();
            let held = self.held.split().freeze();
            self.ready.extend((!held.is_empty()).then_some(Part::Data(held)));
        }
        self.ready.push_back(Part::End);
        self.open = false;
        Ok(START)
    }

    fn give_head(&mut self) {
        self.ready.push_back(Part::Head(std::mem::take(&mut self.head)));
        self.open = true;
    }

    /// As much as there is of the next `left` bytes.
    fn take(&mut self, left: usize, input: &mut Bytes) -> Bytes {
        let piece = input.split_to(left.min(input.len()));
        self.left -= piece.len();
        piece
    }
}

/// All parts of a stream that comes in these pieces, up to its end: the parser as a plain function, for tests and fuzzing.
pub fn take_apart(limit: usize, pieces: impl IntoIterator<Item = Bytes>) -> Result<Vec<Part>> {
    let (mut parser, mut parts) = (Parser::new(limit), Vec::new());
    for mut piece in pieces {
        while let Some(part) = parser.next(&mut piece)? {
            parts.push(part);
        }
    }
    parser.finish().map(|()| parts)
}

pub(super) fn malformed(why: &str) -> Error {
    Error::invalid("message", format!("a message is no WriteRequest: {why}"))
}

#[cfg(test)]
mod tests;
