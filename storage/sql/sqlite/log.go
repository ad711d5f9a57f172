package sqlite

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite appends each page to its log with two system calls, of 24 and 4,096 bytes, which lie across the kernel's pages.
// For a commit of 50 messages these are 250 calls and 1.7 ms of CPU time; one call with all of the bytes takes 0.1 ms.
//
// So the files are opened by a VFS of ours, which is the system's own one but for logs (-wal): what is appended to one of them
// waits in a buffer until SQLite syncs it, does anything else than append to it, or gives up the lock for writing. SQLite itself counts
// on no byte of the log before it has synced it, if synchronous is FULL: a commit is told to other connections after that. Only the
// connection that has written can want to read earlier what it wrote, and does so through the same file. When a delayed
// write has failed, all that is asked of the log fails, so that the transaction cannot commit without it. A connection never gives
// up its lock for writing in locking_mode EXCLUSIVE, and must not be in it.

// logBuffer is how much waits at most, in bytes: SQLite for Unix takes less than 128 KiB for one write.
const logBuffer = 120 << 10

// file is what a database or its log has behind the system's own of a file. It is C's memory.
type file struct {
	// Static after it is opened.
	system  uintptr // sqlite3_io_methods*
	methods sqlite3.Tsqlite3_io_methods

	// log of a database, and database of a log: sqlite3_file*, or nil.
	log, database uintptr

	// Of a log.
	buffer uintptr // nil before the first write
	size   int32   // of what waits
	at     int64   // where in the file it belongs
	failed int32   // why it could not be written; until the lock for writing is given up
}

// The VFS and the one that it stands on, for the whole process, as SQLite has them.
var vfs struct {
	once   sync.Once
	err    error
	name   uintptr               // char*
	system *sqlite3.Tsqlite3_vfs // C's memory
	open   func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32
}

// vfsName registers the VFS, once, and returns its name.
func vfsName(tls *libc.TLS) (uintptr, error) {
	vfs.once.Do(func() { vfs.err = registerVFS(tls) })
	return vfs.name, vfs.err
}

func registerVFS(tls *libc.TLS) error {
	system := sqlite3.Xsqlite3_vfs_find(tls, 0)
	if system == 0 {
		return errors.New("sqlite: the system has no files")
	}
	name, err := libc.CString("hermod")
	if err != nil {
		return err
	}
	ours := libc.Xmalloc(tls, types.Size_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})))
	if ours == 0 {
		return errors.New("sqlite: no memory for a VFS")
	}
	vfs.system = inC[sqlite3.Tsqlite3_vfs](system)
	vfs.open = function[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](vfs.system.FxOpen)
	v := inC[sqlite3.Tsqlite3_vfs](ours)
	*v = *vfs.system
	v.FzName, v.FpNext = name, 0
	v.FszOsFile = offset() + int32(unsafe.Sizeof(file{}))
	v.FxOpen = pointer(openFile)
	if code := sqlite3.Xsqlite3_vfs_register(tls, ours, 0); code != sqlite3.SQLITE_OK {
		return fmt.Errorf("sqlite: register a VFS: code %d", code)
	}
	vfs.name = name
	return nil
}

// offset is where in a file of SQLite's ours is: behind the system's own, aligned.
func offset() int32 { return (vfs.system.FszOsFile + 15) &^ 15 }

// fileOf is ours of a sqlite3_file*.
func fileOf(f uintptr) *file { return inC[file](f + uintptr(offset())) }

// openFile is xOpen.
func openFile(tls *libc.TLS, v, name, f uintptr, flags int32, out uintptr) int32 {
	code := vfs.open(tls, v, name, f, flags, out)
	if code != sqlite3.SQLITE_OK || flags&(sqlite3.SQLITE_OPEN_MAIN_DB|sqlite3.SQLITE_OPEN_WAL) == 0 {
		return code
	}
	head, ours := inC[sqlite3.Tsqlite3_file](f), fileOf(f)
	*ours = file{system: head.FpMethods, methods: *inC[sqlite3.Tsqlite3_io_methods](head.FpMethods)}
	head.FpMethods = f + uintptr(offset()) + unsafe.Offsetof(ours.methods)
	if flags&sqlite3.SQLITE_OPEN_MAIN_DB != 0 {
		ours.methods.FxShmLock = pointer(lockDatabase)
		return code
	}
	ours.methods.FxClose = pointer(closeLog)
	ours.methods.FxRead = pointer(readLog)
	ours.methods.FxWrite = pointer(writeLog)
	ours.methods.FxTruncate = pointer(truncateLog)
	ours.methods.FxSync = pointer(syncLog)
	ours.methods.FxFileSize = pointer(sizeOfLog)
	ours.database = sqlite3.Xsqlite3_database_file_object(tls, name)
	fileOf(ours.database).log = f
	return code
}

// lockDatabase is xShmLock. Who gives up the lock for writing leaves nothing in the buffer: what is left of a transaction that was rolled
// back belongs where the next one, maybe another connection's, writes.
func lockDatabase(tls *libc.TLS, f uintptr, from, n, flags int32) int32 {
	ours := fileOf(f)
	if from == 0 && flags&sqlite3.SQLITE_SHM_UNLOCK != 0 && ours.log != 0 {
		log := fileOf(ours.log)
		log.flush(tls, ours.log) // an error is of a transaction that has failed
		log.failed = sqlite3.SQLITE_OK
	}
	return function[func(*libc.TLS, uintptr, int32, int32, int32) int32](ours.of().FxShmLock)(tls, f, from, n, flags)
}

func (l *file) of() *sqlite3.Tsqlite3_io_methods {
	return inC[sqlite3.Tsqlite3_io_methods](l.system)
}

// flush writes what waits. If that fails it is forgotten, and the transaction fails.
func (l *file) flush(tls *libc.TLS, f uintptr) int32 {
	if size := l.size; size > 0 {
		l.size = 0
		l.failed = l.write(tls, f, l.buffer, size, l.at)
	}
	return l.failed
}

func (l *file) write(tls *libc.TLS, f, data uintptr, size int32, offset int64) int32 {
	return function[func(*libc.TLS, uintptr, uintptr, int32, int64) int32](l.of().FxWrite)(tls, f, data, size, offset)
}

// writeLog is xWrite.
func writeLog(tls *libc.TLS, f, data uintptr, size int32, offset int64) int32 {
	l := fileOf(f)
	if l.size > 0 && (offset != l.at+int64(l.size) || size > logBuffer-l.size) {
		l.flush(tls, f)
	}
	if l.failed != sqlite3.SQLITE_OK {
		return l.failed
	}
	if l.buffer == 0 {
		l.buffer = libc.Xmalloc(tls, logBuffer)
	}
	if l.buffer == 0 || size > logBuffer {
		return l.write(tls, f, data, size, offset)
	}
	if l.size == 0 {
		l.at = offset
	}
	copy(bytesAt(l.buffer+uintptr(l.size), int(size)), bytesAt(data, int(size)))
	l.size += size
	return sqlite3.SQLITE_OK
}

// syncLog is xSync.
func syncLog(tls *libc.TLS, f uintptr, flags int32) int32 {
	l := fileOf(f)
	if code := l.flush(tls, f); code != sqlite3.SQLITE_OK {
		return code
	}
	return function[func(*libc.TLS, uintptr, int32) int32](l.of().FxSync)(tls, f, flags)
}

// readLog is xRead.
func readLog(tls *libc.TLS, f, data uintptr, size int32, offset int64) int32 {
	l := fileOf(f)
	if code := l.flush(tls, f); code != sqlite3.SQLITE_OK {
		return code
	}
	return function[func(*libc.TLS, uintptr, uintptr, int32, int64) int32](l.of().FxRead)(tls, f, data, size, offset)
}

// truncateLog is xTruncate.
func truncateLog(tls *libc.TLS, f uintptr, size int64) int32 {
	l := fileOf(f)
	if code := l.flush(tls, f); code != sqlite3.SQLITE_OK {
		return code
	}
	return function[func(*libc.TLS, uintptr, int64) int32](l.of().FxTruncate)(tls, f, size)
}

// sizeOfLog is xFileSize.
func sizeOfLog(tls *libc.TLS, f, size uintptr) int32 {
	l := fileOf(f)
	if code := l.flush(tls, f); code != sqlite3.SQLITE_OK {
		return code
	}
	return function[func(*libc.TLS, uintptr, uintptr) int32](l.of().FxFileSize)(tls, f, size)
}

// closeLog is xClose. What waits then belongs to no commit.
func closeLog(tls *libc.TLS, f uintptr) int32 {
	l := fileOf(f)
	libc.Xfree(tls, l.buffer)
	l.buffer, l.size = 0, 0
	fileOf(l.database).log = 0
	return function[func(*libc.TLS, uintptr) int32](l.of().FxClose)(tls, f)
}

// inC is what C has at an address.
func inC[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// function is a function of C's by its pointer, and pointer the other way round, for a function that is declared and no closure: in
// translated C a pointer to a function is a Go function value.
func function[F any](pointer uintptr) F { return *(*F)(unsafe.Pointer(&pointer)) }

func pointer[F any](function F) uintptr { return *(*uintptr)(unsafe.Pointer(&function)) }
