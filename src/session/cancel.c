/* cancel.c - cancel from this side, and the gate before the first permission or byte.
 *
 * Until session_advertise has said yes nothing of a session has left this agent and nothing does: a cancel then releases it in the same step. Asked
 * once per session; a no is for ever, and the CANCEL that won is on its way. After it a cancel is a failure like any other: rx revokes and
 * repeats CANCEL until QUIET, tx stops its posts and repeats a failed RESULT until its ACK. The outcome is told at once and never changes.
 */
#include "session/state.h"

#include "base/assert.h"

bool session_advertise(struct kvfi_core *core, struct session *session)
{
	if (session->advertised)
		return true;
	if (!session->called_off)
		session->advertised = core->sink.advertise(core->sink.self, session_index(core, session));
	session->called_off = !session->advertised;
	return session->advertised;
}

void session_cancel(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_cancel *in)
{
	struct session *session = &core->sessions[slot];
	bool why = in->reason != NULL && in->reason[0] != '\0';

	KVFI_ASSERT(session->kind != SESSION_FREE && in->status != KVF_OK);
	session_fail(core, session, in->status, "cancelled by the %s side%s%s",
		session->kind == SESSION_TX ? "prefill" : "decode", why ? ": " : "", why ? in->reason : "");
}
