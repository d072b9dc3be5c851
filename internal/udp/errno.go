package udp

import "syscall"

// errnoIndex returns the place of no in errnoNames.
func errnoIndex(no syscall.Errno) int {
	switch no {
	case syscall.EMSGSIZE:
		return 0
	case syscall.ENETUNREACH:
		return 1
	case syscall.EHOSTUNREACH:
		return 2
	case syscall.ECONNREFUSED:
		return 3
	case syscall.EPERM:
		return 4
	case syscall.EACCES:
		return 5
	case syscall.ENOBUFS:
		return 6
	case syscall.EINVAL:
		return 7
	case syscall.EADDRNOTAVAIL:
		return 8
	case syscall.EAFNOSUPPORT:
		return 9
	}
	return len(errnoNames) - 1
}
