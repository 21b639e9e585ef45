//! Every refusal, phase and outcome as one sentence; agent, client and docs share it.
