/* delivery.pml - one writer, one receiver, and everything that a network and a restart can do to what they say.
 *
 * Two agents that move one request: a prefill rank P (a tx, sending SLICES slices) and a decode rank D (an rx), over a path
 * where D puts the bytes in place itself (loop, tcp). Messages may be lost, repeated and reordered; the data connection may break; either
 * process may restart; either engine may cancel or time out, and both open the request again. How often in all is bounded:
 *   NET    messages lost, repeated or reordered     ENDS   restarts and broken connections
 *   STOPS  cancels and timeouts                     OPENS  sessions of the request, on each side
 *   FORGETS  verdicts that D no longer remembers
 * An agent's owner is one thread that handles an input to its end, so each handler is one atomic step. Timers, which may fire at any
 * time, are processes of their own, and so are the threads that read and write the stream. A timer repeats a message while neither it
 * nor its answer is on its way: a copy that crosses them is what the network's "repeated" does, and counts there.
 *
 * Who mirrors what: `p_...` src/session/{tx,request,result}.c, `d_...` src/session/{rx,arrival}.c, both ending.c and peer.c;
 * the name in a comment is the function. Checked properties are the asserts D1..D6 and the claim `resolves`; each has a BUG_ that breaks it.
 */
#ifndef NET
#define NET 1
#endif
#ifndef ENDS
#define ENDS 1
#endif
#ifndef STOPS
#define STOPS 1
#endif
#ifndef FORGETS
#define FORGETS 0
#endif
#ifndef OPENS
#define OPENS 2
#endif
#define SLICES 2
#define FAIL_AT_NONE 7

/* messages; l: the connection (which names both incarnations), e: epoch, n: slice, v: what it says */
mtype = { REQUEST, REQUEST_OK, RESULT, ACK, CANCEL, QUIET };
#define V_NONE 0
#define V_GOOD 1    /* RESULT: status OK.  ACK: applied */
#define V_FAILED 2
#define V_UNKNOWN 3

#define ROOM 3
chan to_p = [ROOM] of { mtype, byte, byte, byte, byte };
chan to_d = [ROOM] of { mtype, byte, byte, byte, byte };
chan posts = [SLICES] of { byte, byte, byte };   /* l, e, n: with P's transport */
chan stream = [SLICES] of { byte, byte, byte };  /* l, e, n: bytes of a slice, in order */

byte net = NET, ends = ENDS, stops = STOPS, forgets = FORGETS;

/* the connection: 0 is none */
byte drawn, calling, conn, p_link, d_link;

/* ---- P ---- */
mtype = { NONE, PARKED, SERVING, FAILING, CANCELLED, OVER }; /* what became of a REQUEST: struct link */
mtype = { IDLE, POSTED, READY, SENT, ACKED };                 /* enum delivery_state */
typedef ask {
	mtype st = NONE;
	mtype dl[SLICES + 1] = IDLE; /* deliveries by number */
	byte next;                   /* next_number */
	byte fail_at = FAIL_AT_NONE; /* the delivery that carries the failure */
	bool quiet_owed;             /* a CANCEL waits for the posts */
};
ask asks[OPENS + 1]; /* by epoch, of the connection p_link */
bool t_live;
byte t_outcome, t_opens, t_posts;  /* V_*; posts_open */
bool t_record;                     /* ended_tx */
byte given_up_e;                   /* given_up, by the peer of this connection */

byte w_l, w_e, w_n, w_session;     /* what its transport has at hand; session 0: nothing */

/* ---- D ---- */
bool r_live, r_asked, r_answered, r_granted, r_revoked, r_arrived, r_waits; /* r_waits: link->arrival */
byte r_epoch, r_link, r_outcome, r_opens, r_next;
bool r_applied[SLICES];
bool cancelling[OPENS + 1];  /* by epoch: CANCEL repeats until QUIET */
byte verdict[OPENS + 1];     /* ended_rx */
byte next_epoch = 1;
byte reading;                /* epoch under whose lease a frame is being read into blocks; 0: none */
byte reading_n;

/* ---- what nobody in the system knows, and the properties speak of ---- */
byte owner;                  /* epoch to which the blocks belong; 0: the engine's, or another request's */
byte stored[SLICES];         /* times that a slice was stored for the owner */
bool applied_all[16];        /* by connection * 4 + epoch: the receiver has taken every slice */
byte stored_n;

hidden byte head;             /* scratch of one step */
hidden byte parked, serving;

inline send(to, m, l, e, n, v)
{
	if
	:: nfull(to) -> to!m(l, e, n, v)
	:: full(to)
	fi
}

/* ================= P ================= */

/* session_try_release, release_tx, session_close */
inline p_try_release()
{
	if
#ifdef BUG_TX_RELEASED_WHILE_READING
	:: t_live && t_outcome != V_NONE -> t_live = false; t_outcome = V_NONE
#else
	:: t_live && t_outcome != V_NONE && t_posts == 0 -> t_live = false; t_outcome = V_NONE
#endif
	:: else
	fi
}

/* results_push: the head goes out in its turn, a failed one only when no post is open */
inline p_push(e)
{
	if
	:: asks[e].st == SERVING || asks[e].st == FAILING ->
		head = 0;
		do
		:: head <= SLICES && (asks[e].dl[head] == ACKED || asks[e].dl[head] == IDLE) -> head++
		:: else -> break
		od;
		if
		:: head <= SLICES && asks[e].dl[head] == READY &&
		   (head != asks[e].fail_at || (asks[e].dl[0] != POSTED && asks[e].dl[1] != POSTED)) ->
			asks[e].dl[head] = SENT;
			if /* nothing follows a failure */
			:: head == asks[e].fail_at && head == 0 -> asks[e].dl[1] = IDLE; asks[e].dl[2] = IDLE
			:: else
			fi;
			send(to_d, RESULT, p_link, e, head, (head == asks[e].fail_at -> V_FAILED : V_GOOD))
		:: else
		fi;
	:: else
	fi
}

/* tx_link_fail, failing_delivery, tx_fail_push. Posts that are open are stopped (tx_link_stop): the writer looks at st. */
inline p_fail_link(e)
{
	if
	:: asks[e].st == SERVING || asks[e].st == PARKED ->
		asks[e].st = FAILING;
		head = 0;
#ifdef BUG_FAILURE_TAKES_A_USED_NUMBER
		if :: asks[e].dl[0] == SENT -> asks[e].dl[0] = READY :: else fi;
#endif
		do /* the first whose RESULT is not out; or a new one */
		:: head < asks[e].next && (asks[e].dl[head] == SENT || asks[e].dl[head] == ACKED) -> head++
		:: else -> break
		od;
		asks[e].fail_at = head;
		if
		:: head == asks[e].next -> asks[e].dl[head] = READY; asks[e].next = head + 1
		:: else -> /* later ones say nothing any more */
			if :: head == 0 && asks[e].dl[1] == READY -> asks[e].dl[1] = IDLE :: else fi
		fi;
		p_push(e)
	:: else
	fi
}

/* session_fail, of a tx */
inline p_fail()
{
	if
#ifdef BUG_OUTCOME_TOLD_TWICE
	:: t_live ->
#else
	:: t_live && t_outcome == V_NONE ->
#endif
		assert(t_outcome == V_NONE); /* D3: an outcome is told once */
		t_outcome = V_FAILED;
		t_record = true;
		if :: asks[1].st == SERVING -> p_fail_link(1) :: else fi;
		if :: OPENS > 1 && asks[OPENS].st == SERVING -> p_fail_link(OPENS) :: else fi;
		p_try_release()
	:: else
	fi
}

/* tx_link_over: forgotten, but for its epoch (ended_ask) */
inline p_over(e)
{
	asks[e].st = OVER;
	asks[e].dl[0] = IDLE; asks[e].dl[1] = IDLE; asks[e].dl[2] = IDLE;
	asks[e].next = 0; asks[e].fail_at = FAIL_AT_NONE; asks[e].quiet_owed = false
}

/* request.c, give_up: the tx, open or opened later, fails; unless a newer request is there */
inline p_give_up(e)
{
	if
	:: e < OPENS && (asks[OPENS].st == PARKED || asks[OPENS].st == SERVING || asks[OPENS].st == FAILING)
	:: else ->
		if
		:: !t_live -> given_up_e = e
		:: else -> p_fail()
		fi
	fi
}

/* on_cancel */
inline p_on_cancel(e)
{
	if
	:: asks[e].st == NONE || asks[e].st == OVER ->
		send(to_d, QUIET, p_link, e, 0, V_NONE);
		if
		:: asks[e].st == NONE -> asks[e].st = OVER; p_give_up(e)
		:: else
		fi
	:: asks[e].st == CANCELLED
	:: else ->
		parked = (asks[e].st == PARKED);
		serving = (asks[e].st == SERVING || (asks[e].st == FAILING && t_outcome != V_NONE)); /* link_session() */
		asks[e].st = CANCELLED;
		if :: serving -> p_fail() :: else fi;
		if
		:: asks[e].dl[0] != POSTED && asks[e].dl[1] != POSTED ->
			send(to_d, QUIET, p_link, e, 0, V_NONE); /* link_cancelled */
			p_over(e)
		:: else -> asks[e].quiet_owed = true
		fi;
		if :: parked -> p_give_up(e) :: else -> p_try_release() fi;
		parked = false; serving = false
	fi
}

/* tx_adopt, tx_pump: both slices are given and fit the window */
inline p_adopt(e)
{
	asks[e].st = SERVING;
	asks[e].dl[0] = POSTED; posts!p_link, e, 0;
	asks[e].dl[1] = POSTED; posts!p_link, e, 1;
	asks[e].next = SLICES;
	t_posts = t_posts + SLICES
}

/* on_request */
inline p_on_request(e)
{
	if
	:: e < OPENS && (asks[OPENS].st != NONE && asks[OPENS].st != OVER) -> skip /* stale */
	:: else ->
		if
#ifdef BUG_REQUEST_SERVED_AGAIN
		:: asks[e].st == PARKED || asks[e].st == FAILING || asks[e].st == CANCELLED
		:: asks[e].st == SERVING && nempty(posts)
		:: asks[e].st == SERVING && empty(posts) && t_live && t_outcome == V_NONE -> p_adopt(e)
#else
		:: asks[e].st == PARKED || asks[e].st == SERVING || asks[e].st == FAILING || asks[e].st == CANCELLED ->
			send(to_d, REQUEST_OK, p_link, e, 0, V_NONE)
#endif
		:: asks[e].st == OVER -> send(to_d, RESULT, p_link, e, 0, V_FAILED) /* refused_by_time */
		:: asks[e].st == NONE ->
			if /* asked anew: the old epoch is over */
			:: e > 1 && (asks[1].st == PARKED || asks[1].st == SERVING || asks[1].st == FAILING) -> p_on_cancel(1)
			:: else
			fi;
			if
			:: (t_live && t_outcome != V_NONE) || (!t_live && t_record) -> /* refused_by_end */
#ifndef BUG_REFUSAL_FORGOTTEN
				asks[e].st = OVER; /* remember_refusal */
#endif
				send(to_d, RESULT, p_link, e, 0, V_FAILED)
			:: else ->
				if :: given_up_e < e -> given_up_e = 0 :: else fi; /* asked_again */
				send(to_d, REQUEST_OK, p_link, e, 0, V_NONE);
				if
				:: t_live -> p_adopt(e)
				:: else -> asks[e].st = PARKED
				fi
			fi
		fi
	fi
}

/* on_ack, slice_acked, receiver_failed, link_finish */
inline p_on_ack(e, n, v)
{
	if
	:: (asks[e].st == SERVING || asks[e].st == FAILING) && asks[e].dl[n] == SENT ->
		if
		:: asks[e].fail_at == n -> p_over(e) /* the failure was heard */
#ifdef BUG_UNKNOWN_COMPLETES
		:: asks[e].fail_at != n && v == V_FAILED ->
#else
		:: asks[e].fail_at != n && v != V_GOOD ->
#endif
			serving = (asks[e].st == SERVING);
			asks[e].st = CANCELLED;
			if :: serving -> p_fail() :: else fi;
			if :: asks[e].dl[0] != POSTED && asks[e].dl[1] != POSTED -> p_over(e) :: else fi;
			p_try_release()
		:: else ->
			asks[e].dl[n] = ACKED;
			p_push(e);
			if
			:: n == SLICES - 1 && asks[e].st == SERVING ->
				assert(applied_all[p_link * 4 + e]); /* D2: a sender that completes was received */
				assert(t_outcome == V_NONE);
				t_outcome = V_GOOD; t_opens = OPENS;
				p_over(e);
				p_try_release()
			:: else
			fi
		fi
	:: else
	fi
}

/* PEER_DOWN, link_lost: what hangs on the connection ends. Open posts come back later and find nobody. */
inline p_down()
{
	serving = (asks[1].st == SERVING || asks[OPENS].st == SERVING);
	p_over(1); p_over(OPENS);
	asks[1].st = NONE; asks[OPENS].st = NONE;
	p_link = 0; given_up_e = 0;
	if :: serving -> p_fail() :: else fi
}

/* tx_done */
inline p_done(how)
{
	t_posts--;
	if
	:: w_l != p_link || asks[w_e].st == NONE || asks[w_e].st == OVER /* peer_gone */
	:: else ->
		if
		:: asks[w_e].st == CANCELLED ->
			asks[w_e].dl[w_n] = IDLE;
			if
			:: asks[w_e].dl[0] != POSTED && asks[w_e].dl[1] != POSTED ->
				if :: asks[w_e].quiet_owed -> send(to_d, QUIET, w_l, w_e, 0, V_NONE) :: else fi;
				p_over(w_e)
			:: else
			fi
		:: asks[w_e].st == FAILING -> asks[w_e].dl[w_n] = READY; p_push(w_e)
		:: asks[w_e].st == SERVING ->
			asks[w_e].dl[w_n] = READY;
			if
			:: how == V_GOOD -> p_push(w_e)
			:: else -> p_fail()
			fi
		fi
	fi;
	w_l = 0; w_e = 0; w_n = 0; w_session = 0;
	p_try_release()
}

proctype p_owner()
{
	mtype m; byte l, e, n, v;

end:	do
	:: atomic { to_p?m, l, e, n, v ->
		if /* control_message: another connection, or another incarnation, is none of ours */
#ifdef BUG_NO_INCARNATION
		:: p_link != 0 ->
#else
		:: p_link != 0 && l == p_link ->
#endif
			if
			:: m == REQUEST -> p_on_request(e)
			:: m == ACK -> p_on_ack(e, n, v)
			:: m == CANCEL -> p_on_cancel(e)
			fi
		:: else
		fi;
		m = 0; l = 0; e = 0; n = 0; v = 0 }
	od
}

/* hello.c and path.c of P */
proctype p_peers()
{
end:	do
	/* on_hello: end_former, and a new peer */
	:: atomic { calling != 0 && p_link != calling ->
		if :: p_link != 0 -> p_down() :: else fi;
		p_link = calling }
	/* kvfi_path_broken */
	:: atomic { p_link != 0 && conn != p_link && calling != p_link -> p_down() }
	od
}

/* What P's engine does: kvf_tx_open and kvf_tx_send twice, again when that has failed. */
proctype p_engine()
{
	byte e;

end:	do
	:: atomic { !t_live && t_opens < OPENS ->
		t_live = true; t_outcome = V_NONE; t_record = false; t_opens++;
		if
		:: given_up_e != 0 -> p_fail() /* request_given_up */
		:: else
		fi;
		given_up_e = 0;
		e = 1; /* adopt_parked */
		do
		:: e <= OPENS ->
			if
			:: asks[e].st == PARKED && t_outcome == V_NONE -> p_adopt(e)
			:: asks[e].st == PARKED && t_outcome != V_NONE -> p_fail_link(e)
			:: else
			fi;
			e++
		:: else -> break
		od;
		e = 0 }
	/* a cancel or a timeout here; the queue deadline, when nobody will ask */
	:: atomic { t_live && (stops > 0 || (t_outcome == V_NONE && !r_live && r_opens == OPENS)) ->
		if
		:: !(!r_live && r_opens == OPENS) -> stops--
		:: else
		fi;
		p_fail() }
	od
}

#define DUE(e, n) ((asks[e].st == SERVING || asks[e].st == FAILING) && asks[e].dl[n] == SENT && \
	nfull(to_d) && !to_d??[RESULT, eval(p_link), e, n, any] && !to_p??[ACK, eval(p_link), e, n, any])

/* delivery_wake */
proctype p_timer()
{
	byte e, n, any;

end:	do
#ifndef BUG_RESULT_NOT_REPEATED
	:: atomic { DUE(1, 0) -> e = 1; n = 0; goto again }
	:: atomic { DUE(1, 1) -> e = 1; n = 1; goto again }
	:: atomic { DUE(1, 2) -> e = 1; n = 2; goto again }
	:: atomic { DUE(OPENS, 0) -> e = OPENS; n = 0; goto again }
	:: atomic { DUE(OPENS, 1) -> e = OPENS; n = 1; goto again }
	:: atomic { DUE(OPENS, 2) -> e = OPENS; n = 2;
again:		to_d!RESULT(p_link, e, n, (asks[e].fail_at == n -> V_FAILED : V_GOOD));
		e = 0; n = 0 }
#endif
	:: false
	od
}

/* The transport's sending thread, tcp_send.c, and tx_done. It looks before each post whether it was cancelled, and then reads. */
proctype p_writer()
{
end:	do
	:: atomic { w_session == 0 && posts?[w_l, w_e, w_n] ->
		posts?w_l, w_e, w_n;
		if
		:: w_l == p_link && asks[w_e].st == SERVING -> w_session = t_opens
		:: else -> /* KVFI_DONE_TX, KVF_CANCELLED */
			p_done(V_NONE)
		fi }
	:: atomic { w_session != 0 && conn == w_l && nfull(stream) ->
		assert(t_live && t_opens == w_session); /* D5: the source is not read after RELEASED */
		stream!w_l, w_e, w_n;
		p_done(V_GOOD) }
	:: atomic { w_session != 0 && conn != w_l -> p_done(V_FAILED) }
	od
}

/* ================= D ================= */

/* session_try_release, release_rx, session_close */
inline d_release()
{
	assert(r_live && r_outcome != V_NONE); /* D3: released once, and not before the outcome */
	owner = 0; stored[0] = 0; stored[1] = 0;
	r_live = false; r_asked = false; r_answered = false; r_granted = false; r_revoked = false;
	r_arrived = false; r_waits = false; r_epoch = 0; r_link = 0; r_outcome = V_NONE; r_next = 0;
	r_applied[0] = false; r_applied[1] = false
}

/* session_fail of an rx, rx_link_end */
inline d_fail()
{
	if
	:: r_live && r_outcome == V_NONE ->
		r_outcome = V_FAILED;
		verdict[r_epoch] = V_FAILED;
		r_revoked = r_granted;
		if
		:: r_asked && r_link == d_link && !r_arrived ->
			cancelling[r_epoch] = true;
			send(to_p, CANCEL, d_link, r_epoch, 0, V_NONE)
		:: else
		fi;
		if
#ifdef BUG_RELEASED_ON_ERROR
		:: true -> d_release()
#else
		:: !r_granted -> d_release() /* never-advertised */
#endif
		:: else /* local-epoch: see d_watch */
		fi
	:: else
	fi
}

/* rx_peer_up: grant, then REQUEST */
inline d_ask()
{
	r_link = d_link; r_granted = true; r_asked = true;
	send(to_p, REQUEST, d_link, r_epoch, 0, V_NONE)
}

/* accept_kv, try_complete, session_complete */
inline d_accept(n)
{
	r_next = n + 1; r_waits = false;
	if
	:: n == SLICES - 1 -> applied_all[r_link * 4 + r_epoch] = true
	:: else
	fi;
	send(to_p, ACK, r_link, r_epoch, n, V_GOOD);
	if
	:: n == SLICES - 1 ->
		assert(stored[0] == 1 && stored[1] == 1); /* D1: complete means that every byte is there, once */
		r_arrived = true; r_outcome = V_GOOD; verdict[r_epoch] = V_GOOD; r_opens = OPENS;
		d_release()
	:: else
	fi
}

/* on_result, on_kv, on_ended */
inline d_on_result(l, e, n, v)
{
	if
	:: r_live && r_epoch == e && r_link == d_link && r_outcome == V_NONE ->
		r_answered = true;
		if
		:: n < r_next ->
			assert(v == V_GOOD); /* D6: one RESULT for a slice, whatever is repeated */
#ifdef BUG_REPEATED_RESULT_COUNTS
			if :: r_next < SLICES -> n = r_next; d_accept(n) :: else fi
#else
			send(to_p, ACK, d_link, e, n, V_GOOD)
#endif
		:: n >= r_next && v != V_GOOD ->
			r_arrived = true;
			send(to_p, ACK, d_link, e, n, V_GOOD);
			d_fail()
		:: n == r_next && v == V_GOOD && !r_waits ->
#ifdef BUG_RESULT_BELIEVED
			d_accept(n)
#else
			if
			:: r_applied[n] -> d_accept(n)
			:: else -> r_waits = true
			fi
#ifdef BUG_ACK_BEFORE_BYTES
			; send(to_p, ACK, d_link, e, n, V_GOOD)
#endif
#endif
		:: else /* it comes again */
		fi
	:: else ->
		send(to_p, ACK, d_link, e, n, (verdict[e] == V_NONE -> V_UNKNOWN : verdict[e]));
		if /* rx_link_quiet */
		:: n == SLICES - 1 || v != V_GOOD ->
			if :: r_live && r_epoch == e -> r_arrived = true :: else fi;
			cancelling[e] = false
		:: else
		fi
	fi
}

proctype d_owner()
{
	mtype m; byte l, e, n, v;

end:	do
	:: atomic { to_d?m, l, e, n, v ->
		if /* control_message */
#ifdef BUG_NO_INCARNATION
		:: d_link != 0 ->
#else
		:: d_link != 0 && l == d_link ->
#endif
			if
			:: m == REQUEST_OK ->
				if :: r_live && r_epoch == e && r_outcome == V_NONE -> r_answered = true :: else fi
			:: m == RESULT -> d_on_result(l, e, n, v)
			:: m == QUIET -> cancelling[e] = false
			fi
		:: else
		fi;
		m = 0; l = 0; e = 0; n = 0; v = 0 }
	od
}

/* hello.c, peers.c, path.c of D */
proctype d_peers()
{
end:	do
	:: atomic { d_link == 0 && calling == 0 -> drawn++; calling = drawn } /* kvfi_peer_call */
	:: atomic { calling != 0 && p_link == calling -> /* on_hello_ok, kvfi_path_up, peer_up */
		conn = calling; d_link = calling; calling = 0;
		if :: r_live && r_link == 0 && r_outcome == V_NONE -> d_ask() :: else fi }
	:: atomic { d_link != 0 && conn != d_link -> /* kvfi_path_broken, peer_down, link_lost */
		d_link = 0; cancelling[1] = false; cancelling[OPENS] = false;
		if :: r_live && r_link != 0 -> d_fail() :: else fi }
	od
}

proctype d_engine()
{
end:	do
	:: atomic { !r_live && r_opens < OPENS -> /* rx_open */
		r_live = true; r_opens++;
		r_epoch = next_epoch; next_epoch++;
		owner = r_epoch;
		if :: d_link != 0 -> d_ask() :: else fi }
	/* a cancel or a timeout here; the queue deadline, when nobody will send */
	:: atomic { r_live && r_outcome == V_NONE && (stops > 0 || (!t_live && t_opens == OPENS)) ->
		if
		:: !(!t_live && t_opens == OPENS) -> stops--
		:: else
		fi;
		d_fail() }
	od
}

/* rx_wake */
proctype d_timer()
{
	byte any;

end:	do
#ifndef BUG_REQUEST_NOT_REPEATED
	:: atomic { r_live && r_outcome == V_NONE && r_asked && !r_answered && nfull(to_p) &&
		!to_p??[REQUEST, eval(d_link), eval(r_epoch), any, any] &&
		!to_d??[REQUEST_OK, eval(d_link), eval(r_epoch), any, any] && !to_d??[RESULT, eval(d_link), eval(r_epoch), any, any] ->
	 to_p!REQUEST(d_link, r_epoch, 0, V_NONE) }
#endif
#ifndef BUG_CANCEL_NOT_REPEATED
	:: atomic { cancelling[1] && nfull(to_p) && !to_p??[CANCEL, eval(d_link), 1, any, any] &&
		!to_d??[QUIET, eval(d_link), 1, any, any] ->
		to_p!CANCEL(d_link, 1, 0, V_NONE) }
	:: atomic { OPENS > 1 && cancelling[OPENS] && nfull(to_p) && !to_p??[CANCEL, eval(d_link), OPENS, any, any] &&
		!to_d??[QUIET, eval(d_link), OPENS, any, any] ->
		to_p!CANCEL(d_link, OPENS, 0, V_NONE) }
#endif
	:: false
	od
}

/* The receiving thread, tcp_recv.c, tcp_place.c: the epoch is checked, and the lease entered, before bytes are read into blocks. */
proctype d_reader()
{
	byte l, e, n;

end:	do
	:: atomic { reading == 0 && stream?[l, e, n] ->
		stream?l, e, n;
		if
#ifdef BUG_NO_EPOCH_CHECK
		:: l == d_link -> reading = e; reading_n = n
#else
		:: l == d_link && r_live && r_granted && r_epoch == e && r_link == l && !r_revoked ->
			reading = e; reading_n = n
#endif
		:: else /* to a sink */
		fi;
		l = 0; e = 0; n = 0 }
	:: atomic { reading != 0 ->
		assert(owner == reading); /* D4: no byte lands in a block after its RELEASED */
		stored[reading_n]++;
		assert(stored[reading_n] == 1); /* D1 too */
		if /* KVFI_DONE_RX, rx_done */
		:: r_live && r_epoch == reading && r_outcome == V_NONE ->
			r_applied[reading_n] = true;
			if
			:: r_waits && r_next == reading_n -> n = reading_n; d_accept(n); n = 0
			:: else
			fi
		:: else
		fi;
		reading = 0; reading_n = 0 }
	od
}

/* kvfi_watches_look, rx_quiet: the grant is revoked and nobody reads under it */
proctype d_watch()
{
end:	do
	:: atomic { r_live && r_outcome != V_NONE && r_revoked && reading != r_epoch -> d_release() }
	od
}

/* ================= the world ================= */

proctype network()
{
	mtype m; byte l, e, n, v;

end:	do
	:: atomic { net > 0 && nempty(to_p) -> to_p?m, l, e, n, v; net--;
		if
		:: true                                              /* lost */
		:: nempty(to_p) -> to_p!m, l, e, n, v                /* late */
		:: len(to_p) < ROOM - 1 -> to_p!m, l, e, n, v; to_p!m, l, e, n, v /* twice, and late */
		fi;
		m = 0; l = 0; e = 0; n = 0; v = 0 }
	:: atomic { net > 0 && nempty(to_d) -> to_d?m, l, e, n, v; net--;
		if
		:: true
		:: nempty(to_d) -> to_d!m, l, e, n, v
		:: len(to_d) < ROOM - 1 -> to_d!m, l, e, n, v; to_d!m, l, e, n, v
		fi;
		m = 0; l = 0; e = 0; n = 0; v = 0 }
	od
}

proctype fate()
{
end:	do
	/* evict() of ended_rx: others have ended since */
	:: atomic { forgets > 0 && !r_live && verdict[1] != V_NONE -> forgets--; verdict[1] = V_NONE }
	:: atomic { ends > 0 && conn != 0 -> ends--; conn = 0; /* the connection breaks, perhaps with bytes in it */
		if :: nempty(stream) -> stream?_, _, _ :: true fi }
	:: atomic { ends > 0 -> ends--; conn = 0; p_link = 0; /* P restarts, and its engine tries once more */
		if :: t_opens == OPENS -> t_opens = OPENS - 1 :: else fi;
		p_over(1); p_over(OPENS); asks[1].st = NONE; asks[OPENS].st = NONE;
		t_live = false; t_outcome = V_NONE; t_outcome = V_NONE; t_posts = 0; t_record = false;
		given_up_e = 0; w_l = 0; w_e = 0; w_n = 0; w_session = 0;
		do :: len(posts) > 0 -> posts?_, _, _ :: else -> break od }
	:: atomic { ends > 0 -> ends--; conn = 0; d_link = 0; calling = 0; /* D restarts, and its engine tries once more */
		if :: r_opens == OPENS -> r_opens = OPENS - 1 :: else fi;
		if
		:: r_live -> if :: r_outcome == V_NONE -> r_outcome = V_FAILED :: else fi; d_release()
		:: else
		fi;
		cancelling[1] = false; cancelling[OPENS] = false; verdict[1] = V_NONE; verdict[OPENS] = V_NONE;
		next_epoch = 1; reading = 0; reading_n = 0;
		do :: len(stream) > 0 -> stream?_, _, _ :: else -> break od }
	od
}

#define OVER_AT_P(e) (asks[e].st == NONE || asks[e].st == OVER)
/* Both engines have done what they wanted, every session has had its outcome and its release, nothing is repeated any more. */
#define ALL_DONE (r_opens == OPENS && t_opens == OPENS && !r_live && !t_live && OVER_AT_P(1) && OVER_AT_P(OPENS) && \
	!cancelling[1] && !cancelling[OPENS])

init {
	atomic {
		run p_owner(); run p_peers(); run p_engine(); run p_timer(); run p_writer();
		run d_owner(); run d_peers(); run d_engine(); run d_timer(); run d_reader(); run d_watch();
		run network(); run fate()
	};
#ifndef RESOLVES
	timeout; /* nothing can happen any more */
	assert(ALL_DONE) /* D7: nothing waits for ever */
#endif
}

#ifdef RESOLVES
ltl resolves { <> ALL_DONE }
#endif
