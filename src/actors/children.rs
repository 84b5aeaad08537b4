//! The child processes of `exec`: starts them, reads what they say, ends and reaps them.

use std::sync::Arc;

use actix::prelude::*;

use super::{house::House, live_stream::StreamEvent};

pub struct Children {
    house: Arc<House>,
}

impl Children {
    pub fn new(house: Arc<House>) -> Self {
        Self { house }
    }
}

impl Actor for Children {
    type Context = Context<Self>;
}

impl Handler<StreamEvent> for Children {
    type Result = ();

    fn handle(&mut self, _: StreamEvent, _: &mut Self::Context) {
        let _ = &self.house;
    }
}
