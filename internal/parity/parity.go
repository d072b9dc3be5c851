// Package parity makes parity packets over blocks of packets: any n of them mend any n packets of the block that did not come, whichever
// these are, so that one parity packet serves receivers that lost different ones (NORM, RFC 5740; codes: RFC 5510).
//
// The code is Reed-Solomon over GF(2^8) with a Cauchy matrix, of which every square part can be inverted. A row covers for each packet
// its length, 2 bytes, and its bytes, as if followed by zeros.
//
// It is a core.
package parity

import (
	"encoding/binary"
	"errors"

	"github.com/klauspost/reedsolomon"
)

// Sizes.
const (
	// Packets of a block.
	Packets = 32
	// Rows that a block can have.
	Rows = 256 - Packets
	// Overhead is by how many bytes a row is longer than the longest packet of its block.
	Overhead = 2
	// MaxPacket is the longest packet in bytes.
	MaxPacket = 1<<16 - 1
)

// ErrRows says that rows do not belong together: different lengths, numbers twice, or less than are missing.
var ErrRows = errors.New("parity rows do not fit")

var field reedsolomon.LowLevel

// coefficient of a packet in a row: 1 / (x + y), with x and y of two sets that have nothing in common.
func coefficient(row, packet int) byte { return reedsolomon.Inv(byte(Packets+row) ^ byte(packet)) }

// add adds coefficient times a packet to a row.
func add(dst []byte, c byte, packet []byte) {
	var length [Overhead]byte
	binary.BigEndian.PutUint16(length[:], uint16(len(packet)))
	field.GalMulSliceXor(c, length[:], dst[:Overhead])
	field.GalMulSliceXor(c, packet, dst[Overhead:Overhead+len(packet)])
}

// Row appends a row over a block to dst; row is below Rows, and no packet longer than MaxPacket.
func Row(dst []byte, row int, block *[Packets][]byte) []byte {
	longest := 0
	for _, p := range block {
		longest = max(longest, len(p))
	}
	at := len(dst)
	for range Overhead + longest {
		dst = append(dst, 0)
	}
	for i, p := range block {
		add(dst[at:], coefficient(row, i), p)
	}
	return dst
}

// Rebuild puts the missing packets of a block, those that are nil, into it, from as many rows; numbers are those of the rows, which are
// overwritten, and the packets lie in them.
func Rebuild(block *[Packets][]byte, numbers []int, rows [][]byte) error {
	var space [Packets]int
	missing := space[:0]
	longest := 0
	for i, p := range block {
		if p == nil {
			missing = append(missing, i)
		}
		longest = max(longest, len(p))
	}
	n := len(missing)
	if len(rows) < n || len(numbers) < n {
		return ErrRows
	}
	rows, numbers = rows[:n], numbers[:n]
	var seen [Rows]bool
	for i, r := range rows {
		if len(r) != len(rows[0]) || len(r) < Overhead+longest || numbers[i] < 0 || numbers[i] >= Rows || seen[numbers[i]] {
			return ErrRows
		}
		seen[numbers[i]] = true
	}
	// What is there is taken off, so that the rows are sums of what is missing alone.
	var matrix [Packets][Packets]byte
	for j, r := range rows {
		for i, p := range block {
			if p != nil {
				add(r, coefficient(numbers[j], i), p)
			}
		}
		for k, i := range missing {
			matrix[j][k] = coefficient(numbers[j], i)
		}
	}
	// Gauss and Jordan: no pivot is zero, for every square part of the matrix from its corner can be inverted.
	for k := range n {
		scale(rows[k], matrix[k][:n], reedsolomon.Inv(matrix[k][k]))
		for j := range n {
			if c := matrix[j][k]; j != k && c != 0 {
				field.GalMulSliceXor(c, rows[k], rows[j])
				field.GalMulSliceXor(c, matrix[k][:n], matrix[j][:n])
			}
		}
	}
	for k, i := range missing {
		size := int(binary.BigEndian.Uint16(rows[k]))
		if size > len(rows[k])-Overhead {
			return ErrRows
		}
		block[i] = rows[k][Overhead : Overhead+size : Overhead+size]
	}
	return nil
}

// scale multiplies a row and its coefficients.
func scale(row, coefficients []byte, c byte) {
	field.GalMulSlice(c, row, row)
	field.GalMulSlice(c, coefficients, coefficients)
}
