//! HTTP requests about links that wait for an answer of the broker.

use std::sync::Arc;

use lanyard_hub::broker::{CallId, CallInput, Input};
use tokio::sync::oneshot;

use crate::state::{CallAnswer, RelayState};

/// Asks the broker and waits; if the request goes away meanwhile the broker hears that too.
pub(crate) async fn call(
    state: &Arc<RelayState>,
    input: impl FnOnce(CallId) -> Input,
) -> Option<CallAnswer> {
    let call = CallId(state.number());
    let (answer, waiting) = oneshot::channel();
    state.calls.insert(call, answer);
    let left = CallGuard { state: state.clone(), call };
    state.send(input(call)).await;
    let answered = waiting.await.ok();
    std::mem::drop(left);
    answered
}

struct CallGuard {
    state: Arc<RelayState>,
    call: CallId,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.state.calls.remove(&self.call).is_some() {
            self.state.send_detached(Input::Call(CallInput::Left { call: self.call }));
        }
    }
}
