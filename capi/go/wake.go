package viproute

// #include <poll.h>
//
// // Waits for a descriptor of the library, for a byte in the pipe, or for the deadline.
// static void viproute_go_wait(int fd, int wake, int timeout) {
//     struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = wake, .events = POLLIN}};
//     poll(fds, 2, timeout);
// }
import "C"

import "syscall"

// A waker is a pipe: a byte in it ends a wait.
type waker [2]int

func newWaker() (wake waker, err error) {
	err = syscall.Pipe2(wake[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK)
	return wake, err
}

func (wake waker) close() {
	syscall.Close(wake[0])
	syscall.Close(wake[1])
}

// wakeUp ends the wait that runs, or else the next one. A full pipe does that, too.
func (wake waker) wakeUp() { syscall.Write(wake[1], []byte{1}) }

// wait waits until the descriptor is readable, for wakeUp, or until the timeout of poll(2) is over.
func (wake waker) wait(fd, timeout C.int) {
	C.viproute_go_wait(fd, C.int(wake[0]), timeout)
	var bytes [64]byte
	for {
		if n, _ := syscall.Read(wake[0], bytes[:]); n < len(bytes) {
			return
		}
	}
}
