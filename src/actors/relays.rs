//! The supervisor of relays: which stream is pushed where and pulled from where, and when one is tried again.

use std::sync::Arc;

use actix::prelude::*;

use super::{house::House, live_stream::StreamEvent};

pub struct Relays {
    house: Arc<House>,
}

impl Relays {
    pub fn new(house: Arc<House>) -> Self {
        Self { house }
    }
}

impl Actor for Relays {
    type Context = Context<Self>;
}

impl Handler<StreamEvent> for Relays {
    type Result = ();

    fn handle(&mut self, _: StreamEvent, _: &mut Self::Context) {
        let _ = &self.house;
    }
}
