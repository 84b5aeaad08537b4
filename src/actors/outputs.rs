//! Which outputs a stream has.

use actix::prelude::*;

/// Control plane of what streams are made into besides RTMP.
#[derive(Default)]
pub struct Outputs;

impl Actor for Outputs {
    type Context = Context<Self>;
}
