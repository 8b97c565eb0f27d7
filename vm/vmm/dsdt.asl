/* SPDX-License-Identifier: MIT */
/*
 * dsdt.asl - what the guest's kernel cannot find out by itself: a serial port, the virtio-mmio devices, and how
 * to power off. Addresses and lines are those of layout.h, the sleep type that of power.h.
 */
DefinitionBlock ("", "DSDT", 2, "SBXFS", "SBXVMM", 1)
{
    Name (\_S5, Package () { 5, 0, 0, 0 })

    Scope (\_SB)
    {
        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0, 8)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
            })
        }

        /* "LNRO0005" is the virtio-mmio device of Linux and QEMU; _CCA: its DMA is coherent. */
        Device (VIO0)
        {
            Name (_HID, "LNRO0005")
            Name (_UID, 0)
            Name (_CCA, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xD0000000, 0x1000)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 16 }
            })
        }

        Device (VIO1)
        {
            Name (_HID, "LNRO0005")
            Name (_UID, 1)
            Name (_CCA, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xD0001000, 0x1000)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 17 }
            })
        }

        Device (VIO2)
        {
            Name (_HID, "LNRO0005")
            Name (_UID, 2)
            Name (_CCA, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xD0002000, 0x1000)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 18 }
            })
        }

        Device (VIO3)
        {
            Name (_HID, "LNRO0005")
            Name (_UID, 3)
            Name (_CCA, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xD0003000, 0x1000)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 19 }
            })
        }

        Device (VIO4)
        {
            Name (_HID, "LNRO0005")
            Name (_UID, 4)
            Name (_CCA, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xD0004000, 0x1000)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 20 }
            })
        }
    }
}
