/* release.pml - one receiver, two writers that store into its blocks by themselves, and the question when the blocks are quiet.
 *
 * A decode rank R asks two prefill ranks for one request, again and again over the same blocks: ROUNDS rx sessions, one after the other, each
 * with an epoch and a generation of the lease words of its own. Each writer has an agent, which takes messages, and a copy worker, which
 * stores CHUNKS chunks, each under the lease word; a writer may be cancelled, stopped or killed between any two of
 * these. How often in all is bounded:
 *   LOST     messages lost          CANCELS  of R's engine          TIMEOUTS  either side's sessions that fail by themselves
 *   STOPS    writers stopped (and, unless STAY, continued)           KILLS     writers killed
 * FENCE: the receiver can write-protect a writer's mapping. PIDFD: it holds descriptors of the writers' processes.
 * Messages are one register for each kind and writer: a new one takes the place of an old one, kinds overtake each other, and each
 * asking message is repeated until it is answered. 0 is none, else the epoch.
 *
 * Who mirrors what: the lease word is src/memory/lease.h, every function; `w_...` is src/session/{tx,request,result}.c and the
 * workers of src/transport/shm_post.c; `r_...` is src/session/{rx,arrival,ending,peer}.c, shm_link.c for the fence; the name in a comment is
 * the function. Properties: the asserts R1..R4, and the claim `resolves`.
 */
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef CHUNKS
#define CHUNKS 1
#endif
#ifndef LOST
#define LOST 1
#endif
#ifndef CANCELS
#define CANCELS 1
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 0
#endif
#ifndef STOPS
#define STOPS 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef KILLED
#define KILLED 0 /* the writers are alike: 0 is the one that may be stopped, this the one that may be killed */
#endif
#ifndef FENCE
#define FENCE 1
#endif
#ifndef PIDFD
#define PIDFD 1
#endif

#define NOTHING 0
#define GOOD 1
#define FAILED 2

mtype = { RUNS, STOPPED, DEAD };                /* a writer's process */
mtype = { OUT, IN, WRITTEN };                   /* its worker: inside a lease, and has stored its chunk */
mtype = { QUEUED, ADVERTISED, WITHDRAWN };      /* the cancel word of the session */
mtype = { NO_PROOF, COMPLETED, WRITER_QUIET, LEASE, PROCESS_EXIT, FENCED, NEVER_ADVERTISED };

byte lost = LOST, cancels = CANCELS, timeouts = TIMEOUTS, stops = STOPS, kills = KILLS;

/* ---- one lease word for each writer ---- */
typedef lease { byte generation; bool revoked; byte inside };
lease word[2];

/* ---- messages on their way ---- */
byte m_request[2], m_cancel[2], m_ack[2];              /* to a writer */
byte m_quiet[2], m_good[2], m_failed[2];               /* to R: QUIET, RESULT */
bool m_barred[2], m_region[2];                         /* REFUSE(barred) to a writer, its acknowledgement (REGION) */

/* ---- the writers ---- */
mtype process[2] = RUNS;
typedef writer {
	byte served;       /* epochs up to here are known; later ones are news (ended_ask and its floor) */
	byte post;         /* epoch of the open post; 0: none */
	bool stop;         /* post_cancel, or a worker that found its lease gone */
	bool quiet_owed;   /* CANCEL is in: QUIET when the post is out */
	bool failing;
	byte left;         /* chunks */
	byte result, how;  /* RESULT that waits for its ACK */
	bool sink;         /* private memory is mapped over the region */
	mtype at = OUT
};
writer w[2];

/* ---- R ---- */
mtype cancel_word = QUEUED;
bool live, cancel_asked;
byte epoch, outcome;
typedef link {
	bool asked, granted, arrived, lost, barred, fence, dropped;
	byte cancelling; /* CANCEL repeats until QUIET: bit of the epoch; it outlives the session */
	mtype proof = NO_PROOF
};
link r[2];

/* ---- what nobody knows ---- */
byte owner;     /* epoch whose blocks these are; 0: somebody else's */
byte stored[2]; /* chunks, of the owner's epoch */

/* session_try_release, release_rx. What was lost or barred stays so. */
inline r_try_release()
{
	if
#ifdef BUG_ONE_PROOF_IS_ENOUGH
	:: live && outcome != NOTHING && (r[0].proof != NO_PROOF || r[1].proof != NO_PROOF) ->
#else
	:: live && outcome != NOTHING && r[0].proof != NO_PROOF && r[1].proof != NO_PROOF ->
#endif
		live = false;
		if :: cancel_word != WITHDRAWN -> owner = 0 :: else fi; /* the engine of a withdrawn one has freed it */
		stored[0] = 0; stored[1] = 0;
		r[0].granted = false; r[1].granted = false
	:: else
	fi
}

inline r_prove(i, p)
{
	if
	:: live && r[i].proof == NO_PROOF -> r[i].proof = p; r_try_release()
	:: else
	fi
}

inline tell(how)
{
	assert(live && outcome == NOTHING); /* R2: one outcome, and never after RELEASED */
	outcome = how
}

/* rx_link_end */
inline r_end(i)
{
	if
	:: r[i].proof == NO_PROOF ->
		if
		:: r[i].granted -> word[i].revoked = true
		:: else -> r[i].proof = NEVER_ADVERTISED
		fi;
		if
		:: r[i].asked && !r[i].lost && !r[i].arrived -> r[i].cancelling = r[i].cancelling | (1 << epoch); m_cancel[i] = epoch
		:: r[i].arrived && r[i].granted -> r[i].proof = WRITER_QUIET /* its failed RESULT */
		:: else
		fi
	:: else
	fi
}

/* session_fail */
inline r_fail()
{
	if
#ifdef BUG_OUTCOME_OVERWRITTEN
	:: live ->
#else
	:: live && outcome == NOTHING ->
#endif
		tell(FAILED);
		r_end(0); r_end(1);
#ifdef BUG_FREE_ON_ERROR
		live = false; owner = 0; stored[0] = 0; stored[1] = 0
#else
		r_try_release()
#endif
	:: else
	fi
}

/* on_result: ACK goes in any case; from a writer that was dropped nothing is heard */
inline r_result(i, e, how)
{
	m_ack[i] = e;
	if
	:: live && e == epoch && outcome == NOTHING && !r[i].arrived ->
		r[i].arrived = true;
		if
		:: how == FAILED -> r_fail()
		:: else -> /* accept_kv, try_complete */
			r[i].proof = COMPLETED;
			if
#ifdef BUG_FIRST_RESULT_COMPLETES
			:: true ->
#else
			:: r[0].proof == COMPLETED && r[1].proof == COMPLETED ->
#endif
				assert(stored[0] == CHUNKS && stored[1] == CHUNKS); /* R3: complete means that all is there, once */
				tell(GOOD);
				r_try_release()
			:: else
			fi
		fi
	:: e == epoch && !(live && outcome == NOTHING) -> /* on_ended, rx_link_quiet */
		r[i].cancelling = r[i].cancelling & ~(1 << e);
		r_prove(i, WRITER_QUIET)
	:: e != epoch -> r[i].cancelling = r[i].cancelling & ~(1 << e)
	:: else
	fi
}

active proctype r_owner()
{
	byte i;

end:	do
	/* rx_open; the lease words are granted (kvfi_lease_grant: not while a worker is counted inside) before REQUEST leaves */
	:: atomic { !live && epoch < ROUNDS && outcome == NOTHING && !r[0].barred && !r[1].barred && !r[0].lost && !r[1].lost &&
		word[0].inside == 0 && word[1].inside == 0 ->
		live = true; epoch++; owner = epoch; cancel_word = QUEUED;
		r[0].proof = NO_PROOF; r[1].proof = NO_PROOF }
	:: atomic { !live && outcome != NOTHING && epoch < ROUNDS ->
		outcome = NOTHING; cancel_asked = false; /* session_close: the slot is free */
		r[0].asked = false; r[1].asked = false; r[0].arrived = false; r[1].arrived = false }
	:: atomic { live && outcome == NOTHING && cancel_word == QUEUED && !r[0].asked -> cancel_word = ADVERTISED }
	:: atomic { live && outcome == NOTHING && cancel_word == ADVERTISED && !r[0].asked ->
		do
		:: i < 2 ->
			word[i].generation = epoch; word[i].revoked = false;
			r[i].granted = true; r[i].asked = true; m_request[i] = epoch; i++
		:: else -> i = 0; break
		od }
	:: atomic { live && outcome == NOTHING && cancel_word == WITHDRAWN && !r[0].asked -> r_fail() }
	:: atomic { live && cancel_asked -> cancel_asked = false; r_fail() }
	:: atomic { live && outcome == NOTHING && timeouts > 0 -> timeouts--; r_fail() }
	od
}

proctype r_listens(byte i)
{
	byte e;

end:	do
	:: atomic { m_good[i] != 0 && !r[i].dropped -> e = m_good[i]; m_good[i] = 0; r_result(i, e, GOOD); e = 0 }
	:: atomic { m_failed[i] != 0 && !r[i].dropped -> e = m_failed[i]; m_failed[i] = 0; r_result(i, e, FAILED); e = 0 }
	:: atomic { m_quiet[i] != 0 && !r[i].dropped -> e = m_quiet[i]; m_quiet[i] = 0; /* on_quiet */
		if
		:: r[i].cancelling & (1 << e) ->
			r[i].cancelling = r[i].cancelling & ~(1 << e);
			if :: e == epoch -> r_prove(i, WRITER_QUIET) :: else fi
		:: else
		fi;
		e = 0 }
	/* a barred writer has mapped its sink: no store of its lands here, fence or not */
	:: atomic { m_region[i] && r[i].barred ->
		m_region[i] = false; m_barred[i] = false;
		r[i].barred = false; r[i].lost = true; r[i].fence = false;
		r_prove(i, WRITER_QUIET) }
	/* it has mapped afresh, and is readmitted: a new link, which drops what the old one still says, and a fresh lease memfd */
	:: atomic { r[i].lost && r[i].dropped && !r[i].barred && process[i] == RUNS && !w[i].sink && w[i].post == 0 ->
		r[i].lost = false; r[i].dropped = false;
		m_quiet[i] = 0; m_good[i] = 0; m_failed[i] = 0; m_request[i] = 0; m_cancel[i] = 0; m_ack[i] = 0;
		word[i].inside = 0; word[i].revoked = true }
	od
}

/* kvfi_watches_look, the pidfd, the recovery ladder: what R sees of a writer without a word from it */
proctype r_watches(byte i)
{
end:	do
	:: atomic { live && outcome != NOTHING && r[i].proof == NO_PROOF && r[i].granted && word[i].revoked && word[i].inside == 0 ->
		r_prove(i, LEASE) } /* kvfi_lease_quiet, rx_quiet */
	/* link_lost: it is dead, or silent for too long. That proves nothing. */
	:: atomic { !r[i].lost && !r[i].barred && process[i] != RUNS ->
		r[i].lost = true; r[i].cancelling = 0;
		if
		:: live && outcome == NOTHING -> r_fail()
		:: else
		fi;
#ifdef BUG_SILENCE_IS_EXIT
		r_prove(i, PROCESS_EXIT)
#endif
		}
	:: atomic { PIDFD && process[i] == DEAD && live && outcome != NOTHING && r[i].proof == NO_PROOF -> r_prove(i, PROCESS_EXIT) }
	/* the ladder: cancelled, and no proof in the quiet deadline; or lost. Fence, and drop the peer: its link is barred. */
#ifndef BUG_NO_LADDER
	:: atomic { live && outcome != NOTHING && r[i].proof == NO_PROOF && r[i].granted && !r[i].barred ->
		r[i].barred = true; r[i].dropped = true; r[i].cancelling = 0;
		if
		:: FENCE ->
			r[i].fence = true;
#ifdef BUG_FENCE_LIFTED_WITH_THE_LINK
			r[i].fence = false;
#endif
			r_prove(i, FENCED)
		:: else
		fi }
	/* a peer that was lost and is back is told that its link is over, whatever became of the session */
	:: atomic { r[i].lost && !r[i].dropped && process[i] == RUNS -> r[i].barred = true; r[i].dropped = true }
#endif
	od
}

/* rx_wake; REFUSE(barred) answers everything that a barred writer says, so it comes as often as needed */
proctype r_timer(byte i)
{
end:	do
	:: atomic { live && outcome == NOTHING && r[i].asked && !r[i].arrived && !r[i].lost && m_request[i] == 0 &&
		w[i].served < epoch -> m_request[i] = epoch }
#ifndef BUG_CANCEL_NOT_REPEATED
	:: atomic { (r[i].cancelling & 2) && m_cancel[i] == 0 && m_quiet[i] == 0 && !w[i].quiet_owed -> m_cancel[i] = 1 }
	:: atomic { (r[i].cancelling & 4) && m_cancel[i] == 0 && m_quiet[i] == 0 && !w[i].quiet_owed -> m_cancel[i] = 2 }
#endif
	:: atomic { r[i].barred && !m_barred[i] && !m_region[i] && process[i] != DEAD -> m_barred[i] = true }
	od
}

/* kvf_cancel, from a thread of the engine. When nothing was advertised the engine frees at once; else it waits for RELEASED. */
active proctype engine()
{
end:	do
	:: atomic { live && cancels > 0 && !cancel_asked && cancel_word != WITHDRAWN -> cancels--;
#ifdef BUG_CANCEL_WITHOUT_EXCHANGE
		if :: cancel_word == QUEUED -> goto freed :: else -> cancel_asked = true fi }
	od;
freed:	atomic { cancel_word = WITHDRAWN; if :: owner == epoch -> owner = 0 :: else fi }
#else
		if
		:: cancel_word == QUEUED -> cancel_word = WITHDRAWN; owner = 0
		:: else -> cancel_asked = true
		fi }
	od
#endif
}

/* ================= a writer ================= */

/* tx_done: the worker has left. QUIET, or the RESULT, goes only now. */
inline w_done(i)
{
	if
	:: w[i].quiet_owed -> m_quiet[i] = w[i].post
	:: !w[i].quiet_owed && !w[i].failing && !w[i].stop ->
		w[i].result = w[i].post; w[i].how = GOOD; m_good[i] = w[i].post
	:: else -> w[i].result = w[i].post; w[i].how = FAILED; m_failed[i] = w[i].post
	fi;
	w[i].post = 0; w[i].stop = false; w[i].quiet_owed = false; w[i].failing = false; w[i].left = 0
}

proctype w_owner(byte i)
{
	byte e;

end:	do
	:: atomic { process[i] == RUNS && m_request[i] != 0 && w[i].post == 0 -> e = m_request[i]; m_request[i] = 0;
		if /* on_request, tx_adopt, start_slice */
		:: e > w[i].served -> w[i].served = e; w[i].post = e; w[i].left = CHUNKS; w[i].result = 0; w[i].how = NOTHING
		:: else
		fi;
		e = 0 }
	:: atomic { process[i] == RUNS && m_request[i] != 0 && w[i].post != 0 -> /* asked anew: the old epoch is over */
		if :: m_request[i] > w[i].post -> w[i].stop = true :: else -> m_request[i] = 0 fi }
	:: atomic { process[i] == RUNS && m_cancel[i] != 0 -> e = m_cancel[i]; m_cancel[i] = 0; /* on_cancel */
		if
		:: w[i].post == e ->
			w[i].stop = true; w[i].quiet_owed = true; /* tx_link_stop; QUIET when posted is 0 */
#ifdef BUG_QUIET_BEFORE_THE_WORKER_LEFT
			m_quiet[i] = e
#endif
		:: else ->
			if :: e > w[i].served -> w[i].served = e :: else fi;
			if :: w[i].result == e -> w[i].result = 0; w[i].how = NOTHING :: else fi;
			m_quiet[i] = e
		fi;
		e = 0 }
	:: atomic { process[i] == RUNS && m_ack[i] != 0 -> /* on_ack */
		if :: w[i].result == m_ack[i] -> w[i].result = 0; w[i].how = NOTHING :: else fi;
		m_ack[i] = 0 }
	:: atomic { process[i] == RUNS && w[i].post != 0 && w[i].at == OUT && (w[i].left == 0 || w[i].stop) -> w_done(i) }
	/* its own deadline, or its engine's cancel: session_fail, tx_link_fail */
	:: atomic { process[i] == RUNS && w[i].post != 0 && !w[i].failing && timeouts > 0 -> timeouts--;
		w[i].failing = true; w[i].stop = true;
#ifdef BUG_FAILED_RESULT_BEFORE_THE_WORKER_LEFT
		m_failed[i] = w[i].post
#endif
		}
	/* on_refuse(barred): sessions fail, sinks over the regions, then the acknowledgement */
	:: atomic { process[i] == RUNS && m_barred[i] && !m_region[i] ->
		w[i].stop = (w[i].post != 0); w[i].quiet_owed = false; w[i].result = 0; w[i].how = NOTHING;
		w[i].sink = true; m_region[i] = true; m_barred[i] = false }
	/* its worker is out of the sink: the region is mapped afresh, under a new link */
	:: atomic { process[i] == RUNS && w[i].sink && w[i].post == 0 && !r[i].barred -> w[i].sink = false }
	:: atomic { process[i] == RUNS && w[i].sink && w[i].post != 0 && w[i].at == OUT -> /* nothing is told: nobody listens */
		w[i].post = 0; w[i].stop = false; w[i].quiet_owed = false; w[i].failing = false; w[i].left = 0 }
	od
}

/* delivery_wake */
proctype w_timer(byte i)
{
end:	do
#ifndef BUG_RESULT_NOT_REPEATED
	:: atomic { process[i] == RUNS && w[i].result != 0 && w[i].how == GOOD && m_good[i] == 0 && m_ack[i] == 0 -> m_good[i] = w[i].result }
	:: atomic { process[i] == RUNS && w[i].result != 0 && w[i].how == FAILED && m_failed[i] == 0 && m_ack[i] == 0 ->
		m_failed[i] = w[i].result }
#endif
	:: false
	od
}

/* A store of the worker. Under the fence it faults, and waits there for the sink. */
#define CAN_STORE(i) (process[i] == RUNS && (!r[i].fence || w[i].sink))
inline store(i)
{
	if
	:: w[i].sink
	:: else ->
		assert(owner == w[i].post); /* R1: no byte lands in a block after its RELEASED */
		stored[i]++
	fi
}

proctype w_worker(byte i)
{
end:	do
	:: atomic { process[i] == RUNS && w[i].post != 0 && w[i].at == OUT && w[i].left > 0 && !w[i].stop ->
		if /* kvfi_lease_enter */
#ifdef BUG_LEASE_NOT_CHECKED
		:: word[i].generation == w[i].post -> word[i].inside++; w[i].at = IN
#endif
#ifdef BUG_LEASE_WITHOUT_GENERATION
		:: !word[i].revoked -> word[i].inside++; w[i].at = IN
#else
		:: word[i].generation == w[i].post && !word[i].revoked -> word[i].inside++; w[i].at = IN
#endif
		:: else -> w[i].stop = true
		fi }
	:: atomic { CAN_STORE(i) && w[i].at == IN -> w[i].at = WRITTEN; store(i) }
	:: atomic { process[i] == RUNS && w[i].at == WRITTEN -> /* kvfi_lease_leave */
		w[i].at = OUT; w[i].left--;
		if
		:: word[i].generation == w[i].post && word[i].inside > 0 -> word[i].inside--
		:: else
		fi }
	od
}

/* ================= the world ================= */

proctype fate(byte i)
{
end:	do
	:: atomic { lost > 0 && m_request[i] != 0 -> lost--; m_request[i] = 0 }
	:: atomic { lost > 0 && m_cancel[i] != 0 -> lost--; m_cancel[i] = 0 }
	:: atomic { lost > 0 && m_ack[i] != 0 -> lost--; m_ack[i] = 0 }
	:: atomic { lost > 0 && m_quiet[i] != 0 -> lost--; m_quiet[i] = 0 }
	:: atomic { lost > 0 && m_good[i] != 0 -> lost--; m_good[i] = 0 }
	:: atomic { lost > 0 && m_failed[i] != 0 -> lost--; m_failed[i] = 0 }
	:: atomic { stops > 0 && i == 0 && process[i] == RUNS -> stops--; process[i] = STOPPED }
	:: atomic { kills > 0 && i == KILLED && process[i] != DEAD -> kills--; process[i] = DEAD; /* what it had is gone; its word stays as it is */
		w[i].result = 0; w[i].how = NOTHING; w[i].quiet_owed = false; w[i].failing = false; w[i].sink = false;
		m_request[i] = 0; m_cancel[i] = 0; m_ack[i] = 0; m_barred[i] = false }
	od
}

proctype shell(byte i)
{
end:	do
#ifndef STAY
	:: atomic { process[i] == STOPPED -> process[i] = RUNS }
#endif
	:: false
	od
}

#define QUIET_AT(i) (r[i].cancelling == 0 && (process[i] != RUNS || (w[i].post == 0 && w[i].result == 0 && !r[i].barred && !r[i].lost)))
/* Every session has its outcome and its release; or it waits, counted, for a writer that nothing can be known of. */
#define UNKNOWABLE(i) (r[i].proof == NO_PROOF && !FENCE && (process[i] == STOPPED || (process[i] == DEAD && !PIDFD)))
#define NOBODY_TO_ASK (r[0].lost || r[1].lost || r[0].barred || r[1].barred)
#define ALL_DONE (QUIET_AT(0) && QUIET_AT(1) && \
	((!live && (epoch == ROUNDS || NOBODY_TO_ASK || word[0].inside != 0 || word[1].inside != 0)) || \
	 (live && outcome != NOTHING && (UNKNOWABLE(0) || UNKNOWABLE(1)))))

init {
	atomic {
		run r_listens(0); run r_listens(1); run r_watches(0); run r_watches(1); run r_timer(0); run r_timer(1);
		run w_owner(0); run w_owner(1); run w_timer(0); run w_timer(1); run w_worker(0); run w_worker(1);
		run fate(0); run fate(1); run shell(0); run shell(1)
	};
#ifndef RESOLVES
	timeout; /* nothing can happen any more */
	assert(ALL_DONE) /* R4: nothing waits for ever */
#endif
}

#ifdef RESOLVES
ltl resolves { <> ALL_DONE }
#endif
