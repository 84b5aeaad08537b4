//! The hooks of the configuration: asks them, tells them, and remembers what they have not heard yet.

use std::sync::Arc;

use actix::prelude::*;

use super::{house::House, live_stream::StreamEvent};

pub struct Hooks {
    house: Arc<House>,
}

impl Hooks {
    pub fn new(house: Arc<House>) -> Self {
        Self { house }
    }
}

impl Actor for Hooks {
    type Context = Context<Self>;
}

impl Handler<StreamEvent> for Hooks {
    type Result = ();

    fn handle(&mut self, _: StreamEvent, _: &mut Self::Context) {
        let _ = &self.house;
    }
}
