// Package oracle judges what devices show against what was sent and what is stored. It knows nothing
// of hermod: it imports no other package of this module, and never may.
package oracle
