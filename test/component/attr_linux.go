package component

import "syscall"

// ChildAttr makes a child that the kernel kills when its parent dies, in a process group of its
// own, so that the terminal's Ctrl-C reaches the parent only, which then stops it in order. Its root
// is chroot if that is not empty.
func ChildAttr(chroot string) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Chroot: chroot, Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
