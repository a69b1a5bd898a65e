package viproute

// #include <stdlib.h>
// #include <viproute.h>
import "C"

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// A Keeper holds a desired set of VIPs on the link, and repairs only what drifts. [Keeper.Run] does
// the work. The other methods may be called from any goroutine.
type Keeper struct {
	// Close takes it for writing, every other method for reading.
	mutex  sync.RWMutex
	handle *C.viproute_keeper
	closed atomic.Bool
	// Ends the wait of Run.
	wake waker
}

// A Dispatched says what a keeper did.
type Dispatched struct {
	Report *Report
	// News: something was written, a failure began, changed or ended, something else is missing or
	// refused than before, or this is the first dispatch after an order.
	News bool
	// More is due at once.
	More bool
	// MissingLink, MissingIPv4 and MissingIPv6 say what both families, or one, lack: a [Code], or
	// 0.
	MissingLink, MissingIPv4, MissingIPv6 Code
	// Refused is why claimed VIPs that are not desired are not released: a [Code], or 0.
	Refused Code
}

// Counters count what a keeper has done. No counter ever decreases.
type Counters struct {
	Events, Looks, Adopted, Repairs, Released, Failures, Resyncs, Backoffs uint64
}

// A Status has the gauges of a keeper. The times are ages; [Never] if it has not happened.
type Status struct {
	// LastFullSync is when the whole link was last read.
	LastFullSync time.Duration
	// LastDispatch is when the last dispatch without an error ended. Run dispatches only when something
	// has happened or is due.
	LastDispatch time.Duration
	IPv4, IPv6   FamilyStatus
}

// A FamilyStatus has the gauges of one family.
type FamilyStatus struct {
	// Desired and Failing count VIPs.
	Desired, Failing int
	// LastSuccess is when the keeper last looked at VIPs and left none failing.
	LastSuccess time.Duration
	// Missing is what the family waits for: a [Code], or 0.
	Missing Code
	// Waiting is how long the family has waited for it, or [Never].
	Waiting time.Duration
}

// Never stands for the age of what has not happened.
const Never time.Duration = -1

func age(milliseconds C.int64_t) time.Duration {
	if milliseconds < 0 {
		return Never
	}
	return time.Duration(milliseconds) * time.Millisecond
}

// OpenKeeper opens a keeper. It writes nothing to the kernel, and has no desired VIP yet.
func OpenKeeper(config Config, claim Claim) (*Keeper, error) {
	configText, err := config.text()
	if err != nil {
		return nil, err
	}
	claimText, err := claim.text()
	if err != nil {
		return nil, err
	}
	cConfig, cClaim := C.CString(string(configText)), C.CString(string(claimText))
	defer C.free(unsafe.Pointer(cConfig))
	defer C.free(unsafe.Pointer(cClaim))
	keeper := &Keeper{}
	if keeper.wake, err = newWaker(); err != nil {
		return nil, err
	}
	var failed *C.viproute_error
	if code := C.viproute_keeper_open(cConfig, cClaim, &keeper.handle, &failed); code != C.VIPROUTE_CODE_OK {
		keeper.wake.close()
		return nil, takeError(failed)
	}
	return keeper, nil
}

// Close ends Run and frees the keeper. The VIPs stay. Later calls return [os.ErrClosed].
func (keeper *Keeper) Close() error {
	if keeper.closed.Swap(true) {
		return nil
	}
	keeper.interrupt()
	keeper.mutex.Lock()
	defer keeper.mutex.Unlock()
	C.viproute_keeper_free(keeper.handle)
	keeper.handle = nil
	keeper.wake.close()
	return nil
}

// interrupt ends a dispatch, and the wait of Run.
func (keeper *Keeper) interrupt() {
	keeper.mutex.RLock()
	defer keeper.mutex.RUnlock()
	if keeper.handle != nil {
		C.viproute_keeper_cancel(keeper.handle)
		keeper.wake.wakeUp()
	}
}

// Set sets the VIPs to keep from now on. An empty set keeps nothing and releases nothing.
func (keeper *Keeper) Set(desired []netip.Addr) error {
	array, count := toC(desired), C.size_t(len(desired))
	return keeper.order(func(failed **C.viproute_error) C.viproute_code {
		return C.viproute_keeper_set(keeper.handle, first(array), count, failed)
	})
}

// Add keeps these VIPs from now on, too.
func (keeper *Keeper) Add(vips []netip.Addr) error {
	array, count := toC(vips), C.size_t(len(vips))
	return keeper.order(func(failed **C.viproute_error) C.viproute_code {
		return C.viproute_keeper_add(keeper.handle, first(array), count, failed)
	})
}

// Remove keeps these VIPs no longer, and releases them, also the last one.
func (keeper *Keeper) Remove(vips []netip.Addr) error {
	array, count := toC(vips), C.size_t(len(vips))
	return keeper.order(func(failed **C.viproute_error) C.viproute_code {
		return C.viproute_keeper_remove(keeper.handle, first(array), count, failed)
	})
}

// SetSource changes the source of its family.
func (keeper *Keeper) SetSource(source netip.Addr) error {
	array := toC([]netip.Addr{source})
	return keeper.order(func(failed **C.viproute_error) C.viproute_code {
		return C.viproute_keeper_set_source(keeper.handle, first(array), failed)
	})
}

// order gives an order, and wakes Run.
func (keeper *Keeper) order(give func(**C.viproute_error) C.viproute_code) error {
	keeper.mutex.RLock()
	defer keeper.mutex.RUnlock()
	if keeper.handle == nil {
		return os.ErrClosed
	}
	var failed *C.viproute_error
	if code := give(&failed); code != C.VIPROUTE_CODE_OK {
		return takeError(failed)
	}
	keeper.wake.wakeUp()
	return nil
}

// Status returns the keeper's gauges as they are now.
func (keeper *Keeper) Status() (Status, error) {
	keeper.mutex.RLock()
	defer keeper.mutex.RUnlock()
	if keeper.handle == nil {
		return Status{}, os.ErrClosed
	}
	var status *C.viproute_status
	var failed *C.viproute_error
	if code := C.viproute_keeper_status(keeper.handle, &status, &failed); code != C.VIPROUTE_CODE_OK {
		return Status{}, takeError(failed)
	}
	defer C.viproute_status_free(status)
	var s C.viproute_keeper_state
	C.viproute_status_summary(status, &s, C.size_t(unsafe.Sizeof(s)))
	return Status{
		age(s.last_full_sync), age(s.last_dispatch),
		FamilyStatus{
			int(s.desired_ipv4), int(s.failing_ipv4), age(s.last_success_ipv4), Code(s.missing_ipv4), age(s.waiting_ipv4),
		},
		FamilyStatus{
			int(s.desired_ipv6), int(s.failing_ipv6), age(s.last_success_ipv6), Code(s.missing_ipv6), age(s.waiting_ipv6),
		},
	}, nil
}

// Counters returns what the keeper has done so far. After Close, all counters are 0.
func (keeper *Keeper) Counters() Counters {
	keeper.mutex.RLock()
	defer keeper.mutex.RUnlock()
	var c C.viproute_counters
	C.viproute_keeper_counters(keeper.handle, &c, C.size_t(unsafe.Sizeof(c)))
	return Counters{
		uint64(c.events), uint64(c.looks), uint64(c.adopted), uint64(c.repairs),
		uint64(c.released), uint64(c.failures), uint64(c.resyncs), uint64(c.backoffs),
	}
}

// Run keeps the desired set until ctx ends, and calls each after every dispatch that has news; each
// may be nil, and may give the keeper orders. While nothing happens, Run waits in poll(2), in a
// thread of its own.
//
// Run returns the context's error, [os.ErrClosed] after Close, or the error of a dispatch. VIPs
// that fail are no error: they are in the report, and the keeper tries again. After an error, Run
// may be called again.
func (keeper *Keeper) Run(ctx context.Context, each func(Dispatched)) error {
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
			keeper.interrupt()
		case <-ended:
		}
	}()
	defer func() { close(ended); <-stopped }()
	for {
		done, err := keeper.dispatch(ctx)
		if err != nil {
			return err
		}
		if done.News && each != nil {
			each(done)
		}
		if !done.More {
			keeper.wait()
		}
	}
}

// dispatch repairs what is due.
func (keeper *Keeper) dispatch(ctx context.Context) (Dispatched, error) {
	keeper.mutex.RLock()
	defer keeper.mutex.RUnlock()
	for {
		if keeper.closed.Load() {
			return Dispatched{}, os.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return Dispatched{}, err
		}
		var said C.viproute_dispatched
		var report *C.viproute_report
		var failed *C.viproute_error
		size := C.size_t(unsafe.Sizeof(said))
		code := C.viproute_keeper_dispatch(keeper.handle, C.SIZE_MAX, &said, size, &report, &failed)
		if code == C.VIPROUTE_CODE_CANCELLED {
			// By Close, by the context, or by the context of an earlier Run, which ended after its
			// dispatch.
			C.viproute_report_free(report)
			C.viproute_error_free(failed)
			continue
		}
		done := Dispatched{
			Report:      takeReport(report),
			News:        said.has_news != 0,
			More:        said.more != 0,
			MissingLink: Code(said.missing_link),
			MissingIPv4: Code(said.missing_ipv4),
			MissingIPv6: Code(said.missing_ipv6),
			Refused:     Code(said.refused),
		}
		if code != C.VIPROUTE_CODE_OK {
			return done, takeError(failed)
		}
		return done, nil
	}
}

// wait waits until something has happened, or is due.
func (keeper *Keeper) wait() {
	keeper.mutex.RLock()
	defer keeper.mutex.RUnlock()
	if keeper.closed.Load() {
		return
	}
	keeper.wake.wait(C.viproute_keeper_fd(keeper.handle), C.viproute_keeper_deadline(keeper.handle))
}
