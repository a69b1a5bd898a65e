//! The plan of a call.

use std::ffi::c_char;

use crate::boundary::{Text, free, text_of};

/// What a call would do. Immutable, so several threads may read it at once.
#[derive(Debug)]
pub struct Plan {
    plan: viproute::Plan,
    json: Text,
    script: Text,
}

impl From<viproute::Plan> for Plan {
    fn from(plan: viproute::Plan) -> Self {
        Self {
            plan,
            json: Text::default(),
            script: Text::default(),
        }
    }
}

/// The plan as JSON, as the library's feature `serde` defines it: "steps" and "failures". The plan
/// owns the text. NULL: NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_plan_json(plan: *const Plan) -> *const c_char {
    // SAFETY: NULL or a plan that lives, by the contract.
    unsafe { text_of(plan, |plan| plan.json.json(&plan.plan)) }
}

/// The plan as a script of `ip` commands, each with its reason as a comment. The plan owns the text.
/// NULL: NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_plan_script(plan: *const Plan) -> *const c_char {
    // SAFETY: NULL or a plan that lives, by the contract.
    unsafe { text_of(plan, |plan| plan.script.get(|| plan.plan.to_string())) }
}

/// Frees a plan and its texts. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_plan_free(plan: *mut Plan) {
    // SAFETY: NULL or a plan that the caller owns, by the contract.
    unsafe { free(plan) };
}
