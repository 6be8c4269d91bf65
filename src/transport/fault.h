/* fault.h - a transport that wraps another one and does harm by seed; what harm is in base/faults.h.
 *
 * For tests and for `kvferry replay --fault`: what the wrapped transport may do once in a year (a completion that comes late, a frame that is
 * lost, a connection that breaks in the middle) it does as often as asked, always within the contract of transport.h. With every rate 0 it does
 * nothing, and passes the conformance suite as what it wraps does. Its name is that of the wrapped transport: the other side needs no faults.
 */
#ifndef KVFI_TRANSPORT_FAULT_H
#define KVFI_TRANSPORT_FAULT_H

#include "base/faults.h"
#include "transport/transport.h"

/* The functions of `inner` with faults of env->faults. NULL: that transport has none. */
const struct kvfi_transport_ops *kvfi_fault_over(const struct kvfi_transport_ops *inner);

#endif
