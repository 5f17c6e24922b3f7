//! HTTP requests about links that wait for an answer of the broker.

use std::sync::Arc;

use lanyard_hub::broker::{CallId, Input};
use tokio::sync::oneshot;

use crate::edge::{CallAnswer, Edge};

/// Asks the broker and waits; if the request goes away meanwhile the broker hears that too.
pub async fn ask(edge: &Arc<Edge>, input: impl FnOnce(CallId) -> Input) -> Option<CallAnswer> {
    let call = CallId(edge.number());
    let (answer, waiting) = oneshot::channel();
    edge.calls.insert(call, answer);
    let left = LeftCall { edge: edge.clone(), call };
    edge.tell(input(call)).await;
    let answered = waiting.await.ok();
    std::mem::drop(left);
    answered
}

struct LeftCall {
    edge: Arc<Edge>,
    call: CallId,
}

impl Drop for LeftCall {
    fn drop(&mut self) {
        if self.edge.calls.remove(&self.call).is_some() {
            self.edge.tell_soon(Input::CallLeft { call: self.call });
        }
    }
}
