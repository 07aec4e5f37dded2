//! What builds are likely to ask for next. `recorder` notes what each invocation asks for, `trails` keeps that in order,
//! `block` is how it is written down, `service` sends what followed an action before, as it is now.

mod block;
mod recorder;
mod service;
mod trails;

pub(crate) use recorder::Recorder;
pub(crate) use service::service;
pub(crate) use trails::Trails;
