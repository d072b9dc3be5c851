#include "textflag.h"

// Blocks are counted and multiplied as numbers, with the least significant byte first: on their way in and out, swap mirrors
// each of four. Offsets into schedule: powers of H from 48 (H^17) on, H^16 at 64, H at 304; round keys from 368 on.
//
//	Z0-Z3    counters, then key stream, then what comes out; then free
//	Z4-Z7    what goes in, then what is hashed
//	Z8-Z10   low, middle and high part of the sum of products
//	Z11      the hash so far, in its lowest block, the others zero
//	Z12      4 in each block; Z13 the next four counters
//	Z14      the polynomial; Z15 swap
//	Z16-Z30  the round keys, in each block
//	Z31      the first counter, encrypted: what the tag is added to
//	K7       set when what comes out is hashed (seal), not what goes in (open)

DATA swap<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA swap<>+8(SB)/8, $0x0001020304050607
GLOBL swap<>(SB), RODATA|NOPTR, $16

DATA poly<>+0(SB)/8, $1
DATA poly<>+8(SB)/8, $0xc200000000000000
GLOBL poly<>(SB), RODATA|NOPTR, $16

DATA four<>+0(SB)/8, $4
DATA four<>+8(SB)/8, $0
GLOBL four<>(SB), RODATA|NOPTR, $16

DATA first<>+0(SB)/8, $1
DATA first<>+8(SB)/8, $0
DATA first<>+16(SB)/8, $2
DATA first<>+24(SB)/8, $0
DATA first<>+32(SB)/8, $3
DATA first<>+40(SB)/8, $0
DATA first<>+48(SB)/8, $4
DATA first<>+56(SB)/8, $0
GLOBL first<>(SB), RODATA|NOPTR, $64

// COUNT takes the next sixteen counters.
#define COUNT \
	VPSHUFB Z15, Z13, Z0  \
	VPADDD  Z12, Z13, Z13 \
	VPSHUFB Z15, Z13, Z1  \
	VPADDD  Z12, Z13, Z13 \
	VPSHUFB Z15, Z13, Z2  \
	VPADDD  Z12, Z13, Z13 \
	VPSHUFB Z15, Z13, Z3  \
	VPADDD  Z12, Z13, Z13

#define ROUND(k) \
	VAESENC k, Z0, Z0 \
	VAESENC k, Z1, Z1 \
	VAESENC k, Z2, Z2 \
	VAESENC k, Z3, Z3

// ENCRYPT makes the key stream of the counters.
#define ENCRYPT \
	VPXORQ Z16, Z0, Z0       \
	VPXORQ Z16, Z1, Z1       \
	VPXORQ Z16, Z2, Z2       \
	VPXORQ Z16, Z3, Z3       \
	ROUND(Z17)               \
	ROUND(Z18)               \
	ROUND(Z19)               \
	ROUND(Z20)               \
	ROUND(Z21)               \
	ROUND(Z22)               \
	ROUND(Z23)               \
	ROUND(Z24)               \
	ROUND(Z25)               \
	ROUND(Z26)               \
	ROUND(Z27)               \
	ROUND(Z28)               \
	ROUND(Z29)               \
	VAESENCLAST Z30, Z0, Z0  \
	VAESENCLAST Z30, Z1, Z1  \
	VAESENCLAST Z30, Z2, Z2  \
	VAESENCLAST Z30, Z3, Z3

// APPLY adds what goes in to the key stream.
#define APPLY \
	VPXORQ Z4, Z0, Z0 \
	VPXORQ Z5, Z1, Z1 \
	VPXORQ Z6, Z2, Z2 \
	VPXORQ Z7, Z3, Z3

// CHOOSE leaves the ciphertext in Z4-Z7, as numbers, the hash so far added to the first.
#define CHOOSE \
	VMOVDQA64 Z0, K7, Z4  \
	VMOVDQA64 Z1, K7, Z5  \
	VMOVDQA64 Z2, K7, Z6  \
	VMOVDQA64 Z3, K7, Z7  \
	VPSHUFB Z15, Z4, Z4   \
	VPSHUFB Z15, Z5, Z5   \
	VPSHUFB Z15, Z6, Z6   \
	VPSHUFB Z15, Z7, Z7   \
	VPXORQ  Z11, Z4, Z4

// MULTIPLY begins a sum of products: four blocks with four powers.
#define MULTIPLY(d, p) \
	VMOVDQU64  p, Z0             \
	VPCLMULQDQ $0x00, Z0, d, Z8  \
	VPCLMULQDQ $0x11, Z0, d, Z10 \
	VPCLMULQDQ $0x01, Z0, d, Z9  \
	VPCLMULQDQ $0x10, Z0, d, Z1  \
	VPXORQ     Z1, Z9, Z9

// ADDPRODUCT adds to the sum.
#define ADDPRODUCT(d, p) \
	VMOVDQU64  p, Z0            \
	VPCLMULQDQ $0x00, Z0, d, Z1 \
	VPCLMULQDQ $0x11, Z0, d, Z2 \
	VPXORQ     Z1, Z8, Z8       \
	VPXORQ     Z2, Z10, Z10     \
	VPCLMULQDQ $0x01, Z0, d, Z1 \
	VPCLMULQDQ $0x10, Z0, d, Z2 \
	VPTERNLOGQ $0x96, Z1, Z2, Z9

// REDUCE makes the hash of the sum: modulo the polynomial, and the four blocks added up.
#define REDUCE \
	VPCLMULQDQ    $0x01, Z8, Z14, Z0  \
	VPSHUFD       $0x4e, Z8, Z8       \
	VPTERNLOGQ    $0x96, Z0, Z8, Z9   \
	VPCLMULQDQ    $0x01, Z9, Z14, Z0  \
	VPSHUFD       $0x4e, Z9, Z9       \
	VPTERNLOGQ    $0x96, Z0, Z9, Z10  \
	VEXTRACTI64X4 $1, Z10, Y0         \
	VPXORQ        Y0, Y10, Y10        \
	VEXTRACTI64X2 $1, Y10, X0         \
	VPXORQ        X0, X10, X11

// func crypt(k *schedule, counter *[16]byte, dst, src *byte, n int, aad *byte, aadLen int, tag *[TagSize]byte, seal bool)
TEXT ·crypt(SB), NOSPLIT, $0-65
	MOVQ    k+0(FP), AX
	MOVQ    counter+8(FP), BX
	MOVQ    dst+16(FP), DI
	MOVQ    src+24(FP), SI
	MOVQ    n+32(FP), CX
	MOVQ    aad+40(FP), R8
	MOVQ    aadLen+48(FP), R9
	MOVBLZX seal+64(FP), DX
	NEGL    DX
	KMOVW   DX, K7
	XORQ    R13, R13

	VBROADCASTI32X4 swap<>(SB), Z15
	VBROADCASTI32X4 poly<>(SB), Z14
	VBROADCASTI32X4 four<>(SB), Z12
	VBROADCASTI32X4 368(AX), Z16
	VBROADCASTI32X4 384(AX), Z17
	VBROADCASTI32X4 400(AX), Z18
	VBROADCASTI32X4 416(AX), Z19
	VBROADCASTI32X4 432(AX), Z20
	VBROADCASTI32X4 448(AX), Z21
	VBROADCASTI32X4 464(AX), Z22
	VBROADCASTI32X4 480(AX), Z23
	VBROADCASTI32X4 496(AX), Z24
	VBROADCASTI32X4 512(AX), Z25
	VBROADCASTI32X4 528(AX), Z26
	VBROADCASTI32X4 544(AX), Z27
	VBROADCASTI32X4 560(AX), Z28
	VBROADCASTI32X4 576(AX), Z29
	VBROADCASTI32X4 592(AX), Z30

	VBROADCASTI32X4 (BX), Z13
	VPXORQ          X16, X13, X31
	VAESENC         X17, X31, X31
	VAESENC         X18, X31, X31
	VAESENC         X19, X31, X31
	VAESENC         X20, X31, X31
	VAESENC         X21, X31, X31
	VAESENC         X22, X31, X31
	VAESENC         X23, X31, X31
	VAESENC         X24, X31, X31
	VAESENC         X25, X31, X31
	VAESENC         X26, X31, X31
	VAESENC         X27, X31, X31
	VAESENC         X28, X31, X31
	VAESENC         X29, X31, X31
	VAESENCLAST     X30, X31, X31
	VPSHUFB         Z15, Z13, Z13
	VPADDD          first<>(SB), Z13, Z13
	VPXORQ          X11, X11, X11

additional: // up to four blocks a turn, the last padded with zeros
	TESTQ      R9, R9
	JZ         turn
	MOVQ       R9, R10
	MOVQ       $64, R11
	CMPQ       R10, R11
	CMOVQGT    R11, R10
	SUBQ       R10, R9
	MOVQ       $-1, R11
	BZHIQ      R10, R11, R11
	KMOVQ      R11, K1
	VMOVDQU8.Z (R8), K1, Z4
	ADDQ       R10, R8
	VPSHUFB    Z15, Z4, Z4
	VPXORQ     Z11, Z4, Z4
	ADDQ       $15, R10
	ANDQ       $-16, R10
	LEAQ       320(AX), R12
	SUBQ       R10, R12
	MULTIPLY(Z4, 0(R12))
	REDUCE
	JMP        additional

turn: // sixteen blocks
	CMPQ CX, $256
	JLT  last
	COUNT
	ENCRYPT
	VMOVDQU64 0(SI), Z4
	VMOVDQU64 64(SI), Z5
	VMOVDQU64 128(SI), Z6
	VMOVDQU64 192(SI), Z7
	APPLY
	VMOVDQU64 Z0, 0(DI)
	VMOVDQU64 Z1, 64(DI)
	VMOVDQU64 Z2, 128(DI)
	VMOVDQU64 Z3, 192(DI)
	CHOOSE
	MULTIPLY(Z4, 64(AX))
	ADDPRODUCT(Z5, 128(AX))
	ADDPRODUCT(Z6, 192(AX))
	ADDPRODUCT(Z7, 256(AX))
	REDUCE
	ADDQ $256, SI
	ADDQ $256, DI
	SUBQ $256, CX
	JMP  turn

last: // up to 255 bytes, and the block of lengths
	MOVQ    $-1, R11
	BZHIQ   CX, R11, R10
	KMOVQ   R10, K1
	MOVQ    CX, R10
	SUBQ    $64, R10
	CMOVQLT R13, R10
	BZHIQ   R10, R11, R10
	KMOVQ   R10, K2
	MOVQ    CX, R10
	SUBQ    $128, R10
	CMOVQLT R13, R10
	BZHIQ   R10, R11, R10
	KMOVQ   R10, K3
	MOVQ    CX, R10
	SUBQ    $192, R10
	CMOVQLT R13, R10
	BZHIQ   R10, R11, R10
	KMOVQ   R10, K4
	COUNT
	ENCRYPT
	VMOVDQU8.Z 0(SI), K1, Z4
	VMOVDQU8.Z 64(SI), K2, Z5
	VMOVDQU8.Z 128(SI), K3, Z6
	VMOVDQU8.Z 192(SI), K4, Z7
	APPLY
	VMOVDQU8 Z0, K1, 0(DI)
	VMOVDQU8 Z1, K2, 64(DI)
	VMOVDQU8 Z2, K3, 128(DI)
	VMOVDQU8 Z3, K4, 192(DI)
	VMOVDQU8.Z Z0, K1, Z0
	VMOVDQU8.Z Z1, K2, Z1
	VMOVDQU8.Z Z2, K3, Z2
	VMOVDQU8.Z Z3, K4, Z3
	CHOOSE
	ADDQ $15, CX
	ANDQ $-16, CX
	LEAQ 304(AX), R12
	SUBQ CX, R12
	MULTIPLY(Z4, 0(R12))
	ADDPRODUCT(Z5, 64(R12))
	ADDPRODUCT(Z6, 128(R12))
	ADDPRODUCT(Z7, 192(R12))
	MOVQ    n+32(FP), R10
	SHLQ    $3, R10
	MOVQ    aadLen+48(FP), R11
	SHLQ    $3, R11
	VMOVQ   R10, X4
	VPINSRQ $1, R11, X4, X4
	ADDPRODUCT(Z4, 304(AX))
	REDUCE
	VPSHUFB   X15, X11, X11
	VPXORQ    X31, X11, X11
	MOVQ      tag+56(FP), DX
	VMOVDQU64 X11, (DX)
	VZEROUPPER
	RET

// SPREAD adds each word of a round key to those after it, and a word to all.
#define SPREAD(x, word) \
	MOVO  x, X4    \
	PSLLO $4, X4   \
	PXOR  X4, x    \
	PSLLO $4, X4   \
	PXOR  X4, x    \
	PSLLO $4, X4   \
	PXOR  X4, x    \
	PXOR  word, x

#define EVEN(rcon, at) \
	AESKEYGENASSIST $rcon, X3, X2 \
	PSHUFD          $0xff, X2, X2 \
	SPREAD(X1, X2)                \
	MOVOU           X1, at(BX)

#define ODD(at) \
	AESKEYGENASSIST $0, X1, X2    \
	PSHUFD          $0xaa, X2, X2 \
	SPREAD(X3, X2)                \
	MOVOU           X3, at(BX)

// func expand(key *[KeySize]byte, rk *[rounds + 1][16]byte)
TEXT ·expand(SB), NOSPLIT, $0-16
	MOVQ  key+0(FP), AX
	MOVQ  rk+8(FP), BX
	MOVOU 0(AX), X1
	MOVOU 16(AX), X3
	MOVOU X1, 0(BX)
	MOVOU X3, 16(BX)
	EVEN(0x01, 32)
	ODD(48)
	EVEN(0x02, 64)
	ODD(80)
	EVEN(0x04, 96)
	ODD(112)
	EVEN(0x08, 128)
	ODD(144)
	EVEN(0x10, 160)
	ODD(176)
	EVEN(0x20, 192)
	ODD(208)
	EVEN(0x40, 224)
	RET
